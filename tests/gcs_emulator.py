"""`gcp-storage-emulator` with what GCS has and it lacks, TensorStore needs, and its own: answers
name the generation of an object, and conditions on it are kept. `python -m tests.gcs_emulator PORT
BUCKET`."""

import sys
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects


def generation(storage, bucket, name):
    """Of an object; "0": there is none."""
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def first(request, name):
    return (request.query.get(name) or [None])[0]


def download(request, response, storage, whole=objects.download):
    there = generation(storage, request.params["bucket_name"], request.params["object_id"])
    if there != "0":
        response["X-Goog-Generation"] = there
        if first(request, "ifGenerationNotMatch") == there:
            response.status = HTTPStatus.NOT_MODIFIED
            return
    whole(request, response, storage)


def insert(request, response, storage, *arguments, whole=objects.insert, **options):
    wanted = first(request, "ifGenerationMatch")
    name = first(request, "name")
    if wanted is not None and name is not None:
        if wanted != generation(storage, request.params["bucket_name"], name):
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
    whole(request, response, storage, *arguments, **options)


if __name__ == "__main__":
    objects.download = download
    objects.insert = insert
    from gcp_storage_emulator.server import create_server  # takes the handlers as they are now

    create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).run()
