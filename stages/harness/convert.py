"""Turns what a harness wrote into the files of stage eval: metrics.json and predictions.jsonl."""

import json
import math
from pathlib import Path

PRIMARY = ["acc", "exact_match", "bits_per_byte", "f1", "word_perplexity"]


def number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def primary(metrics):
    names = list(metrics)
    for wanted in PRIMARY:
        for name in names:
            if name == wanted or name.startswith(wanted + ","):
                return name
    return names[0] if names else None


def task(formulation, shots, version, lines, metrics):
    return {"formulation": formulation, "shots": shots, "version": version, "instances": len(lines),
            "failed": sum(line["failed"] is not None for line in lines), "truncated": 0,
            "primary": primary(metrics), "metrics": metrics}


def lm_eval(folder):
    """The tasks and instances in lm_eval's results_*.json and samples_*.jsonl below `folder`."""
    found = sorted(Path(folder).rglob("results_*.json"))
    if len(found) != 1:
        raise SystemExit("lm_eval wrote %d files of results, where one was expected" % len(found))
    results = json.loads(found[0].read_text())
    tasks, predictions = {}, []
    for name, values in sorted(results["results"].items()):
        # Groups have no samples of their own.
        samples = sorted(found[0].parent.glob("samples_%s_20*.jsonl" % name))
        kind, lines = "multiple_choice", []
        for path in samples:
            with open(path) as file:
                kind, lines = lm_eval_samples(name, [json.loads(line) for line in file])
        metrics = {}
        count = results.get("n-samples", {}).get(name, {}).get("effective") or len(lines)
        for key, value in values.items():
            metric, _, kept = key.partition(",")
            if not kept or metric.endswith("_stderr") or not number(value):
                continue
            error = values.get("%s_stderr,%s" % (metric, kept))
            # `none` is the only filter of most tasks.
            shown = metric if kept == "none" else key
            metrics[shown] = {"value": float(value), "stderr": error if number(error) else None, "n": count}
        if not metrics:
            continue
        shots = results.get("n-shot", {}).get(name)
        version = results.get("versions", {}).get(name)
        tasks[name] = task(kind, shots, None if version is None else str(version), lines, metrics)
        tasks[name]["instances"] = max(len(lines), count)
        predictions += lines
    return tasks, predictions


def lm_eval_samples(name, samples):
    lines, kind, known = [], "multiple_choice", set()
    for index, sample in enumerate(samples):
        arguments = sample["arguments"]
        entries = list(arguments.values()) if isinstance(arguments, dict) else arguments
        entries = [list(entry.values()) if isinstance(entry, dict) else list(entry) for entry in entries]
        responses = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in sample["resps"]]
        if len(entries[0]) == 1:
            kind, outputs = "rolling", [output(entries[0][0], sum_logits=first(responses[0]))]
        elif isinstance(entries[0][1], dict):
            kind, outputs = "generation", [output(str(first(one)), None) for one in sample["filtered_resps"]]
        else:
            kind = "multiple_choice" if len(entries) > 1 else "loglikelihood"
            outputs = []
            for entry, response in zip(entries, responses):
                greedy = response[1] if isinstance(response, list) and len(response) > 1 else None
                greedy = str(greedy) == "True" if greedy is not None else None
                outputs.append(output(entry[1], first(response), greedy))
        key = (str(sample["doc_id"]), sample.get("filter", "none"))
        suffix = "" if key[1] == "none" else ",%s" % key[1]
        scores = {metric + suffix: float(sample[metric]) for metric in sample.get("metrics", [])
                  if number(sample.get(metric)) or isinstance(sample.get(metric), bool)}
        if key[0] in known:
            # The same instance with another filter.
            for line in lines:
                if line["doc_id"] == key[0]:
                    line["instance_metrics"].update(scores)
            continue
        known.add(key[0])
        target = sample.get("target")
        label = int(target) if str(target).isdigit() and kind == "multiple_choice" else [str(target)]
        prompts = list(dict.fromkeys(entry[0] for entry in entries)) if kind != "rolling" else [""]
        lines.append(instance(name, key[0], index + 1, prompts, outputs, scores, label))
    return kind, lines


def first(value):
    value = value[0] if isinstance(value, list) and value else value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def output(text, sum_logits, greedy=None):
    found = {"text": text, "num_tokens": 0, "num_chars": len(text)}
    if number(sum_logits):
        found["sum_logits"] = sum_logits
        found["bits_per_byte"] = -sum_logits / (max(len(text.encode()), 1) * math.log(2))
    if greedy is not None:
        found["is_greedy"] = greedy
    return found


def instance(name, identity, number_of_line, prompts, outputs, scores, label, native_id=None):
    return {"task": name, "doc_id": identity, "native_id": native_id, "line": number_of_line, "prompts": prompts,
            "model_output": outputs, "instance_metrics": scores, "label": label, "truncated_tokens": 0, "failed": None}


def flat(value, path=""):
    """The numbers in nested objects, by their paths."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, "%s.%s" % (path, key) if path else str(key))
    elif number(value) or isinstance(value, bool):
        yield path, float(value)


def olmo_eval(folder):
    """The tasks and instances in olmo-eval's *-predictions.jsonl below `folder`."""
    tasks, predictions = {}, []
    for path in sorted(Path(folder).rglob("*-predictions.jsonl")):
        # SPEC_HASH6-predictions.jsonl
        name = path.name[: -len("-predictions.jsonl")].rpartition("_")[0] or path.stem
        lines = []
        with open(path) as file:
            for index, text in enumerate(file):
                record = json.loads(text)
                outputs = [{key: value for key, value in one.items()
                            if key not in ("extracted_answer",) and value is not None} for one in record["model_output"]]
                for one in outputs:
                    one.setdefault("num_tokens", 0)
                    one.setdefault("num_chars", len(one.get("text", "")))
                label = record.get("label")
                label = label if isinstance(label, int) else [str(one) for one in label] if isinstance(label, list) else [str(label)]
                lines.append(instance(name, str(record["doc_id"]), index + 1, [], outputs,
                                  dict(flat(record.get("instance_metrics") or {})), label, record.get("native_id")))
        if not lines:
            raise SystemExit("%s holds no instance: olmo-eval evaluated nothing" % path.name)
        names = sorted({name for one in lines for name in one["instance_metrics"]})
        metrics = {metric: mean([one["instance_metrics"][metric] for one in lines if metric in one["instance_metrics"]])
                   for metric in names}
        several = any(len(one["model_output"]) > 1 for one in lines)
        tasks[name] = task("multiple_choice" if several else "generation", None, None, lines, metrics)
        predictions += lines
    return tasks, predictions


def mean(values):
    count = len(values)
    value = sum(values) / count
    squares = sum((one - value) ** 2 for one in values)
    return {"value": value, "stderr": math.sqrt(squares / (count - 1) / count) if count > 1 else None, "n": count}


def write(tasks, predictions, out):
    """Writes both files into the folder `out`. No task is an error, never a result."""
    if not tasks:
        raise SystemExit("the harness wrote no metric of any task")
    total = lambda key: sum(task[key] for task in tasks.values())
    metrics = {"format": 1, "instances": total("instances"), "failed": total("failed"), "truncated": 0, "tasks": tasks}
    (Path(out) / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    with open(Path(out) / "predictions.jsonl", "w") as file:
        for one in predictions:
            file.write(json.dumps(one) + "\n")
