"""Random pipelines: a project's files, made from a `random.Random` and nothing else."""
import json
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
PROGRAM = os.path.join(HERE, "stage_program.py")
EXPERIMENT = "soak.yaml"
NAME = "soak"
WORDS = "amber bird cloud door eagle field grain house island jacket kettle lemon mountain north".split()


class Pipeline:
    """A random pipeline, and the facts about it that a round needs.

    salts    values of the param `salt`, which reaches some of the stages
    sources  source files below the project, relative
    programs the stages' own programs, relative
    """

    def __init__(self):
        self.stages = {}
        self.contracts = {}
        self.outputs = {}
        self.files = {}
        self.salts = ["one", "two", "three"]
        self.programs = []
        self.trains = False

    @property
    def sources(self):
        return sorted(name for name in self.files if name.startswith("data/"))

    def write(self, folder):
        """Writes the project into `folder`."""
        for name, content in self.files.items():
            write(os.path.join(folder, name), content)
        write(os.path.join(folder, "olmo-pipe.yaml"), "project: soak\n")
        for name, contract in self.contracts.items():
            write(os.path.join(folder, "stages", name, "stage.yaml"), json.dumps(contract, indent=1) + "\n")
            shutil.copyfile(PROGRAM, os.path.join(folder, "stages", name, "program.py"))
        pipeline = {
            "pipeline": NAME,
            "params": {"salt": {"type": "string", "default": self.salts[0]}},
            "stages": self.stages,
            "outputs": self.outputs,
        }
        write(os.path.join(folder, "pipeline.yaml"), json.dumps(pipeline, indent=1) + "\n")
        write(os.path.join(folder, EXPERIMENT), f"experiment: {NAME}\nuses: pipeline.yaml\n")

    def __str__(self):
        chain = " with training" if self.trains else ""
        return f"{len(self.stages)} stages{chain}, {len(self.outputs)} results"


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def random_pipeline(rng, slow=1.0, train=0.35, fetch=0.0):
    """A random DAG of command stages, with a small training or a long fetch beside it.

    slow   scales the pauses of the command stages
    train  the probability of a training
    fetch  the probability of a fetch of a large file, if there is no training
    """
    pipeline = Pipeline()
    train = rng.random() < train
    for number in range(rng.randint(1, 3)):
        size = rng.choice([0, 1, 700, 40_000, 300_000])
        pipeline.files[f"data/source-{number}.bin"] = rng.randbytes(size)
    count = rng.randint(1, 4) if train else rng.randint(3, 9)
    singles, lists = [], []
    for number in range(count):
        command_stage(rng, pipeline, number, singles, lists, slow)
    if train:
        training(rng, pipeline)
    elif rng.random() < fetch:
        pipeline.files["data/large.txt"] = text(rng, 500_000)
        pipeline.stages["large"] = {"uses": "fetch", "with": {"files": ["data/large.txt"], "format": "text"}}
        pipeline.outputs["large"] = "${stages.large.dataset}"
    ends = [f"${{stages.{stage}.{port}}}" for stage, port in singles + lists]
    for number, reference in enumerate(rng.sample(ends, min(len(ends), rng.randint(1, 4)))):
        pipeline.outputs[f"result-{number}"] = reference
    return pipeline


def command_stage(rng, pipeline, number, singles, lists, slow):
    """Adds stage `number`, which may read what is in `singles` and `lists`, and adds its outputs to them."""
    stage = f"{rng.choice(WORDS)}-{number}"
    shape = rng.choices(["files", "list", "each", "gather"], [5, 3, 3 if lists else 0, 3 if lists else 0])[0]
    inputs, values = {}, {}
    if shape == "each":
        source, port = rng.choice(lists)
        inputs["one"], values["one"] = {"type": "text"}, "${item}"
    elif shape == "gather":
        source, port = rng.choice(lists)
        inputs["all"], values["all"] = {"type": "text", "list": True}, f"${{stages.{source}.{port}}}"
    earlier = rng.sample(singles, min(len(singles), rng.randint(0, 3)))
    if earlier:
        inputs["parts"] = {"type": "text", "list": True}
        values["parts"] = [f"${{stages.{name}.{port}}}" for name, port in earlier]
    if not values or rng.random() < 0.3:
        inputs["source"], values["source"] = {"type": "file"}, rng.choice(pipeline.sources)
    plan = stage_plan(rng, stage, shape, slow)
    ports = {port: {"type": "text", **({"list": True} if "" not in items else {})} for port, items in plan["outputs"].items()}
    salted = rng.random() < 0.3
    argv = [sys.executable, "-I", "-S", "${stage.dir}/program.py", "${params.plan}"]
    argv += [f"in:{port}=${{inputs.{port}}}" for port in inputs]
    argv += [f"out:{port}=${{outputs.{port}}}" for port in ports]
    pipeline.contracts[stage] = {
        "stage": stage,
        "version": 1,
        "summary": "Writes files that depend on its plan and its inputs.",
        "inputs": inputs,
        "outputs": ports,
        "params": {"plan": {"type": "string"}, "salt": {"type": "string", "default": ""}},
        "resources": {"cpus": 1, "memory_mib": 16},
        "command": {"argv": argv + (["salt=${params.salt}"] if salted else []), "files": ["program.py"]},
    }
    pipeline.programs.append(f"stages/{stage}/program.py")
    use = {"uses": stage, "with": {**values, "plan": json.dumps(plan)}}
    if salted:
        use["with"]["salt"] = "${params.salt}"
    if shape == "each":
        use["for_each"] = f"${{stages.{source}.{port}}}"
    pipeline.stages[stage] = use
    for port, items in plan["outputs"].items():
        if shape == "each":
            if "" in items:
                lists.append((stage, port))
        elif "" in items:
            singles.append((stage, port))
        else:
            lists.append((stage, port))


def stage_plan(rng, stage, shape, slow):
    """What the program of `stage` writes: files by output port and list item (`""` of a single port)."""
    outputs = {"text": {"": files(rng)}}
    if shape == "list":
        form = rng.choice(["step{}", "part-{}", "n={},x", "Item_{}"])
        labels = [form.format(n) for n in rng.sample(range(1, 120), rng.randint(1, 6))]
        outputs = {"items": {label: files(rng) for label in labels}}
    if shape != "each" and rng.random() < 0.3:
        outputs["more"] = {"": files(rng)}
    return {
        "name": stage,
        "outputs": outputs,
        "background": rng.choices([0, 1, 3], [8, 2, 1])[0],
        "read_pause": slow * rng.choice([0, 0, 0.01, 0.05]),
        "write_pause": slow * rng.choice([0, 0, 0.02, 0.1]) / max(1, sum(len(f) for o in outputs.values() for f in o.values()) / 5),
    }


def files(rng):
    """Files of one artifact."""
    kind = rng.choices(["few", "many", "large", "odd"], [6, 1, 2, 2])[0]
    if kind == "many":
        return [file(f"d{n % 7}/f{n}", rng.choice([0, 10, 900]), content=str(n % 50)) for n in range(rng.randint(60, 200))]
    if kind == "large":
        return [file("large.bin", rng.randint(200_000, 2_500_000)), file("small", 10)]
    if kind == "odd":
        names = ["with space", "-dash", "ünïcode", "deep/er/and/deeper", "quote's", "empty", "$(echo)", "#", "%41", "CON"]
        return [file(name, 0 if name == "empty" else rng.randint(1, 300)) for name in rng.sample(names, rng.randint(2, 6))]
    return [file(f"file-{n}", rng.choice([1, 50, 4096, 70_000]), rng.random() < 0.3) for n in range(rng.randint(1, 4))]


def file(path, size, executable=False, content=None):
    return {"path": path, "size": size, "executable": executable, "content": content or path}


def text(rng, lines):
    words = [rng.choice(WORDS) for _ in range(997)]
    return "".join(f"{words[n % 997]} {words[n * 7 % 991]} {n % 100}\n" for n in range(lines))


def training(rng, pipeline):
    """Adds the built-in chain: texts, tokenizer, tokens, rows, a tiny model with checkpoints, evals, the best one."""
    pipeline.trains = True
    # More than 2 x 65,536 records make three files of tokens, which are unfinished work one by one.
    pipeline.files["data/text.txt"] = text(rng, rng.choice([60, 300, 2000, 140_000]))
    with open(os.path.join(REPOSITORY, "data/tulu-heldout.jsonl"), "rb") as held:
        chats = held.readlines()
    pipeline.files["data/chats.jsonl"] = b"".join(rng.sample(chats, 12))
    interval = rng.randint(5, 40)
    steps = interval * rng.randint(2, 5) + rng.randint(0, interval - 1)
    width = rng.choice([16, 32, 64])
    sizes = {"d_model": width, "n_heads": 2, "n_layers": rng.randint(1, 2), "mlp_hidden_size": 4 * width}
    model = {"preset": "olmo2", **sizes, "max_sequence_length": 256}
    tokenizer = "${stages.tokenizer.tokenizer}"
    pipeline.stages.update({
        "text": {"uses": "fetch", "with": {"files": ["data/text.txt"], "format": "text"}},
        "chats": {"uses": "fetch", "with": {"files": ["data/chats.jsonl"], "format": "messages"}},
        "tokenizer": {"uses": "tokenizer", "with": {"documents": ["${stages.chats.dataset}"], "vocab_size": 300}},
        "tokens": {"uses": "tokenize", "with": {"documents": "${stages.text.dataset}", "tokenizer": tokenizer, "template": "plain"}},
        "rows": {"uses": "memmap", "with": {"tokens": "${stages.tokens.tokens}", "sequence_length": 32, "pack": "concat"}},
        "train": {"uses": "train", "with": {
            "data": "${stages.rows.memmap}",
            "seed": rng.randint(0, 10_000),
            "model": model,
            "max_duration": f"{steps}steps",
            "global_train_batch_size": rng.choice([2, 8]),
            "optimizer": {"learning_rate": 0.01, "weight_decay": 0.1, "eps": 1e-8},
            "max_grad_norm": 1.0,
            "scheduler": {"t_warmup": 1},
            "save_interval": interval,
        }},
        "eval": {"uses": "eval", "for_each": "${stages.train.checkpoints}", "with": {
            "model": "${item}",
            "tokenizer": tokenizer,
            "prompts": "${stages.chats.dataset}",
            "limit": 2,
            "max_new_tokens": 2,
        }},
        "best": {"uses": "checkpoint", "with": {
            "from": "${stages.train.checkpoints}",
            "scores": "${stages.eval.metrics}",
            "select": {rng.choice(["max", "min"]): "exact_match"},
        }},
    })
    pipeline.outputs["best"] = "${stages.best.model}"
    if rng.random() < 0.5:
        pipeline.outputs["checkpoints"] = "${stages.train.checkpoints}"
