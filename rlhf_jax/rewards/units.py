"""Units of measure that answers carry: what they measure and how many of the base unit they are."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A product of powers of base units."""

    factor: Fraction
    """Of the base units."""
    measures: tuple[tuple[str, int], ...]
    """(base unit, power), sorted, powers not 0. Two units can be compared when these are equal."""


_TABLE: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "length": (
        "m",
        {
            "nm nanometer nanometers": "1e-9",
            "mm millimeter millimeters millimetre millimetres": "0.001",
            "cm centimeter centimeters centimetre centimetres": "0.01",
            "dm decimeter decimeters": "0.1",
            "m meter meters metre metres": "1",
            "km kilometer kilometers kilometre kilometres kms": "1000",
            "in inch inches": "0.0254",
            "ft foot feet": "0.3048",
            "yd yds yard yards": "0.9144",
            "mi mile miles": "1609.344",
        },
    ),
    "mass": (
        "g",
        {
            "mg milligram milligrams": "0.001",
            "g gram grams gm gms": "1",
            "kg kgs kilogram kilograms kilos": "1000",
            "t ton tons tonne tonnes": "1000000",
            "oz ounce ounces": "28.349523125",
            "lb lbs pound pounds": "453.59237",
        },
    ),
    "time": (
        "s",
        {
            "ms millisecond milliseconds": "0.001",
            "s sec secs second seconds": "1",
            "min mins minute minutes": "60",
            "h hr hrs hour hours": "3600",
            "day days": "86400",
            "week weeks": "604800",
        },
    ),
    "month": (
        "month",
        {
            "month months": "1",
            "yr yrs year years": "12",
            "decade decades": "120",
            "century centuries": "1200",
        },
    ),
    "volume": (
        "l",
        {
            "ml mL milliliter milliliters millilitre millilitres": "0.001",
            "cl centiliter centiliters": "0.01",
            "dl deciliter deciliters": "0.1",
            "l L liter liters litre litres": "1",
            "cup cups": "0.2365882365",
            "pint pints": "0.473176473",
            "quart quarts": "0.946352946",
            "gal gals gallon gallons": "3.785411784",
        },
    ),
    "money": ("$", {"$ dollar dollars usd USD buck bucks": "1", "¢ cent cents": "0.01"}),
    "euro": ("€", {"€ euro euros eur EUR": "1"}),
    "sterling": ("£", {"£ gbp GBP": "1", "pence penny": "0.01"}),
    "yen": ("¥", {"¥ yen yuan": "1"}),
    "rupee": ("₹", {"₹ rupee rupees rs Rs": "1"}),
    "angle": ("°", {"° degree degrees deg": "1"}),
    "radian": ("rad", {"rad rads radian radians": "1"}),
    "celsius": ("C", {"C °C celsius Celsius": "1"}),
    "fahrenheit": ("F", {"F °F fahrenheit Fahrenheit": "1"}),
    "kelvin": ("kelvin", {"kelvin kelvins Kelvin": "1"}),
    "information": (
        "bit",
        {
            "bit bits": "1",
            "byte bytes B": "8",
            "KB kB": "8000",
            "MB": "8000000",
            "GB": "8000000000",
        },
    ),
    "energy": (
        "J",
        {"J joule joules": "1", "kJ kilojoule kilojoules": "1000", "cal calorie calories": "4.184"},
    ),
    "power": ("W", {"W watt watts": "1", "kW kilowatt kilowatts": "1000"}),
    "frequency": ("Hz", {"Hz hertz": "1", "kHz": "1000", "MHz": "1000000"}),
    "force": ("N", {"N newton newtons": "1", "kN": "1000"}),
    "pressure": ("Pa", {"Pa pascal pascals": "1", "kPa": "1000"}),
    "voltage": ("V", {"V volt volts": "1"}),
    "current": ("A", {"amp amps ampere amperes": "1"}),
    "resistance": ("ohm", {"ohm ohms": "1"}),
    "clock": ("am", {"am a.m": "1"}),
    "noon": ("pm", {"pm p.m": "1"}),
}
UNITS = {
    word: Unit(Fraction(factor), ((base, 1),))
    for base, rows in _TABLE.values()
    for words, factor in rows.items()
    for word in words.split()
}
UNITS["mph"] = Unit(Fraction("1609.344") / 3600, (("m", 1), ("s", -1)))
UNITS["kmh"] = UNITS["kph"] = Unit(Fraction(1000, 3600), (("m", 1), ("s", -1)))
_TOKEN = re.compile(
    r"\s*(?:(per(?![A-Za-z])|/)|(°\s?[CF](?![A-Za-z])|[$¢€£¥₹°]|a\.m|p\.m|[A-Za-z]+)"
    r"\s*(?:\^\s*\{?\s*(-?[1-4])\s*\}?)?\.?)"
)
_SHAPES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


def unit_of(text: str) -> tuple[Unit, str] | None:
    """The unit that a text begins with ("km", "m/s", "square feet", "cm^{2}"), and what follows."""
    measures: dict[str, int] = {}
    factor = Fraction(1)
    place = 0
    found = 0
    sign = 1
    power = None
    while token := _TOKEN.match(text, place):
        if token[1]:
            if not found or sign < 0:
                break
            sign = -1
            power = None
        elif token[2].lower() in _SHAPES and power is None and token[3] is None:
            power = _SHAPES[token[2].lower()]
        else:
            name = token[2].replace(" ", "")
            unit = UNITS.get(name) or UNITS.get(name.lower() if len(name) > 2 else "")
            if unit is None or (found and sign > 0):
                break
            exponent = sign * (int(token[3]) if token[3] else power or 1)
            for base, own in unit.measures:
                measures[base] = measures.get(base, 0) + own * exponent
            factor *= unit.factor**exponent
            found = token.end()
            sign = 1
            power = None
        place = token.end()
    if not found:
        return None
    return Unit(factor, tuple(sorted((base, n) for base, n in measures.items() if n))), text[found:]
