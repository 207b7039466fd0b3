"""What `--help` prints below the options: examples, what is to be known, exit codes."""

EXIT_CODES = """\
exit codes:
  0    done
  1    unexpected error (a bug, or the system: disk full, out of memory)
  2    mistake on the command line or in the configuration
  3    the data cannot be used
  4    the model or the checkpoint cannot be read or written
  5    training failed: the loss or the gradients stay non-finite, or the rewards do not grade
  6    another process of the run ended or hangs; the same command goes on from what was saved
  130  interrupted by Ctrl-C, SIGTERM or training.save_before after saving; the same command goes on
       from there
"""
TOP = """\
examples:
  rlhf-jax quickstart                      SFT, DPO, PPO, GRPO and DAPO of a small model, compared
  rlhf-jax train configs/sft_hh.yaml data.path=pairs.jsonl
  rlhf-jax train configs/dpo_hh.yaml data.path=pairs.jsonl model.path=runs/sft_hh/export \\
      algorithm.beta=0.2
  rlhf-jax data configs/sft_hh.yaml data.path=chats.jsonl --rows 5
  rlhf-jax evaluate runs/dpo_hh
  rlhf-jax export runs/dpo_hh aligned-model --best
  rlhf-jax generate aligned-model "Once upon a time"
  rlhf-jax algorithms dpo
  rlhf-jax show runs                       every run of a folder in a line
  rlhf-jax report runs/sft_hh runs/dpo_hh  curves, completions and differences in one HTML file

"""
TRAIN = """\
examples:
  rlhf-jax train configs/dpo_hh.yaml data.path=pairs.jsonl
  rlhf-jax train configs/dpo_hh.yaml optimizer.learning_rate=1e-5 \\
      training.max_steps=200 run_dir=runs/try1
  rlhf-jax train configs/sft_hh.yaml 'mesh={data: 2, fsdp: 4}' \\
      'optimizer.decay_exclude=[norm/]' tokenizer=byte

An override is section.key=value: a YAML scalar, or flow syntax in brackets or braces; null unsets;
the last one wins.
Starting the same command again goes on from the newest checkpoint in run_dir (see
checkpoint.resume).
A configuration is code: the reward functions that it names are imported and called. Run only those
that you trust.

"""
EVALUATE = """\
examples:
  rlhf-jax evaluate runs/dpo_hh                    the newest checkpoint of a run
  rlhf-jax evaluate runs/dpo_hh --best data.eval_path=test.jsonl data.eval_fraction=0
  rlhf-jax evaluate configs/dpo_hh.yaml data.path=pairs.jsonl model.path=aligned-model \\
      model.reference=runs/sft_hh/export
  rlhf-jax evaluate runs/grpo --trust-rewards      a run whose rewards are functions of a file

A configuration is code: the reward functions that it names are imported and called. Those of your
own configuration you have chosen; those of a run folder, which may have come from somebody else,
run with --trust-rewards only.

"""
DATA = """\
examples:
  rlhf-jax data configs/sft_hh.yaml data.path=chats.jsonl
  rlhf-jax data configs/grpo_gsm8k.yaml --rows 5 data.max_examples=1000

Trained tokens are green, or in \u27e6brackets\u27e7 where the output is no terminal. Nothing is
written.

"""
EXPORT = """\
examples:
  rlhf-jax export runs/dpo_hh aligned-model                   the newest checkpoint
  rlhf-jax export runs/dpo_hh aligned-model --best            the best one by checkpoint.best_metric
  rlhf-jax export runs/dpo_hh/checkpoints/200 aligned-model --dtype bfloat16

The folder holds weights, config.json and tokenizer; transformers and vLLM load it.

"""
GENERATE = """\
examples:
  rlhf-jax generate runs/sft_hh "Once upon a time" --temperature 0.7 -n 3
  rlhf-jax generate aligned-model --chat "What is 17 + 25?" --greedy
  rlhf-jax generate aligned-model --file prompts.jsonl --max-new-tokens 256 \\
      --output completions.jsonl

The model is a Hugging Face folder, a hub id, or the run folder of `rlhf-jax train` (its export). A
.txt file holds a prompt per line; .jsonl, .json, .csv and .parquet files hold them in a column
`prompt` (text or messages) or `messages`.

"""
LAUNCH = """\
examples:
  rlhf-jax launch --processes 2 -- train configs/dpo_hh.yaml data.path=pairs.jsonl
  rlhf-jax launch --processes 4 --devices-per-process 2 -- train configs/grpo_gsm8k.yaml
  rlhf-jax launch --processes 2 --restarts 3 -- train configs/grpo_gsm8k.yaml

One process for all devices of a machine is the rule; several are for machines whose devices one
process cannot hold, and to try what several hosts will do. Over several hosts start the same
`rlhf-jax train` on each: see distributed in rlhf-jax train --help.

"""
REPORT = """\
examples:
  rlhf-jax report runs/grpo                              report.html
  rlhf-jax report runs/grpo runs/dpo --output both.html
  rlhf-jax report runs/compare                           every run in a folder

Runs that differ in their seeds alone are drawn as one, with mean and range. Runs that are still
going on, were killed, or have no completions can be looked at too. The file needs no network and
asks for none. It holds prompts and completions: look at it before you give it away.

"""
SHOW = """\
examples:
  rlhf-jax show runs                                     a line for each run in a folder
  rlhf-jax show runs/grpo                                first, last and best of every metric
  rlhf-jax show runs/grpo runs/dpo                       side by side, and what differs
  rlhf-jax show runs/grpo --completions --wrong --sort reward
  rlhf-jax show runs/grpo --completions --step 60 --split eval

"""
METRICS = """\
examples:
  rlhf-jax metrics                     all of them
  rlhf-jax metrics policy/entropy      one

"""
MODELS = "examples:\n  rlhf-jax models\n\n"
ALGORITHMS = """\
examples:
  rlhf-jax algorithms          all of them
  rlhf-jax algorithms dpo      the options of one

"""
COMPARE = """\
examples:
  rlhf-jax compare configs/compare_arithmetic.yaml
  rlhf-jax compare configs/compare_arithmetic.yaml run_dir=runs/three 'seeds=[0, 1, 2]'
  rlhf-jax compare configs/compare_arithmetic.yaml run_dir=runs/one --cell grpo:0

Every run starts from the same model and is measured on the same held-out prompts. The run folder
then holds compare.md, compare.json, compare.png and results.json (a cell per run and seed, with the
command that makes it again). Starting the same command again goes on where it stopped.

"""
CLAIMS = """\
examples:
  rlhf-jax claims configs/evidence/claims.yaml
  rlhf-jax claims configs/evidence/claims.yaml statistic=mean pairing=none --output runs/mine
  rlhf-jax claims configs/evidence/claims.yaml 'claims[7].claimed=0.05' \\
      comparisons.programs.results=other/results.json

Reads what rlhf-jax compare has written, trains nothing, and counts the memory of set-ups by shapes
and by compiling an update of each. What is not measured yet is listed with the command that
measures it.

  confirmed               the whole interval is at least the claim
  direction only          it is not, but the whole interval lies on the claim's side of no effect;
                          the figure is then excluded, or open
  refuted                 the whole interval falls short of the claim, and shows no such direction
  undecided at this size  all else, and fewer than three seeds

"""
BENCH = """\
examples:
  rlhf-jax bench configs/dpo_hh.yaml data.path=pairs.jsonl
  rlhf-jax bench configs/grpo_gsm8k.yaml --repeats 3 --programs generate,update --json bench.json
  rlhf-jax bench --suite cpu --python TORCH_VENV/bin/python --markdown suite.md --chart suite.png
  rlhf-jax bench --suite cpu dpo generation
  rlhf-jax bench --curves dpo dpo-ipo --python TORCH_VENV/bin/python --output curves

With --curves: both sides train from the same folder on the same rows in the same order, and the
losses of every step are compared. --list names what there is.

With a suite: this library, plain PyTorch and TRL, each side a process of its own; they take turns,
window by window, after they have computed the same. Where the windows of a side differ by more than
10 % there is no ratio, but the range of it. The PyTorch sides need torch, transformers and trl.

With a configuration: builds what train would build, and runs each program of a training step on the
run's own data, between measurements of what this machine can do in this very process. Nothing is
written to run_dir, and nothing is resumed.

  time       median and range of the rounds, seconds, the result waited for
  GFLOP      useful operations, from a formula: the products of the model, forward once and backward
             twice that, nothing computed again; causal attention by half, the head on trained
             tokens only, padding not at all, a prompt that rows share once
  of roof    useful operations per second, as a share of the fastest product right before or after
  limit      the time that the machine's rates allow, as a share of the time taken, and which of
             them it is: products, or memory (parameters and cache read per decoded token;
             parameters and optimizer state read and written once per update)
  padding    share of the computed places that hold no token
  temp/peak  MB of one device beside arguments and results, and with them, as compiled
  compile    seconds of all shapes of the program, and how many there were where not one

"""
PLAN = """\
examples:
  rlhf-jax plan configs/grpo_gsm8k.yaml model.path=qwen2.5-7b --device v6e-64 --search
  rlhf-jax plan configs/dpo_hh.yaml --device v5p-64 --mesh data=2,fsdp=16 --output plan.json
  rlhf-jax plan configs/sft_hh.yaml --device h100x8

Compiles the programs of a training step for a machine that need not be there, with its own compiler
where that is installed (pip install 'jax[tpu]' or 'jax[cuda12]'), else with XLA's for CPUs, and
says what they hold, send and take. No weights are loaded (a model's folder is asked for its
config.json, model.config does as well) and no data is read: rows are taken to be as long as the
configuration allows. Nothing is measured: bytes are the compiler's own, seconds compare plans for
one machine. The exit code is 1 where the run does not fit.

  peak      of one device in that phase, with everything that the run holds meanwhile
  compute   by the compiler's own estimate of cycles (TPU), attention kernels at 60 % of the peak
            rate; else useful operations at the peak rate
  memory    what must pass through the device's memory, at its full rate
  network   what one device must send, at the full rate of its links
  MFU       useful operations of the step over the peak rate, where all that can overlap does

"""
QUICKSTART = """\
examples:
  rlhf-jax quickstart
  rlhf-jax quickstart runs/first --seed 1
  rlhf-jax quickstart --show-config > my_comparison.yaml

A small model with random weights learns sums imperfectly (SFT); then DPO, PPO, GRPO and DAPO each
go on from there. The same as rlhf-jax compare configs/compare_arithmetic.yaml.

"""
