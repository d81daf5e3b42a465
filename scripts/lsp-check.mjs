// Drives the npm package yaml-language-server, which most editors use for YAML, over our schemas:
//   - on files that `olmo-pipe validate` accepts it finds nothing,
//   - on files whose form is wrong it marks only lines that `validate` names, and at least one,
//   - it offers the names of stages, params and ports where they may stand.
// Usage: scripts/lsp-check.mjs [--report]. Needs node, npm and a built olmo-pipe. The server is installed
// once into OLMO_PIPE_CI_CACHE (default ~/.cache/olmo-pipe-ci), at the version below; without a
// network and without it there, the check says so and is skipped with exit code 77.

import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const VERSION = "1.25.0";
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const program = join(root, "target/release/olmo-pipe");
const report = process.argv.includes("--report");

function server() {
  const cache = join(process.env.OLMO_PIPE_CI_CACHE || join(homedir(), ".cache/olmo-pipe-ci"), `yaml-language-server-${VERSION}`);
  const path = join(cache, "node_modules/.bin/yaml-language-server");
  if (!existsSync(path)) {
    mkdirSync(cache, { recursive: true });
    try {
      execFileSync("npm", ["install", "--no-audit", "--no-fund", "--prefix", cache, `yaml-language-server@${VERSION}`], { stdio: "pipe" });
    } catch (error) {
      console.log(`skipped: yaml-language-server ${VERSION} is not installed and cannot be: ${error.message.split("\n")[0]}`);
      process.exit(77);
    }
  }
  return path;
}

/** A language server as a set of promises. */
class Client {
  constructor(path) {
    this.process = spawn(path, ["--stdio"], { stdio: ["pipe", "pipe", "inherit"] });
    this.buffer = Buffer.alloc(0);
    this.next = 1;
    this.replies = new Map();
    this.diagnostics = new Map();
    this.waiting = new Map();
    this.settings = {};
    this.failures = [];
    this.process.stdout.on("data", (data) => this.read(data));
  }

  read(data) {
    this.buffer = Buffer.concat([this.buffer, data]);
    for (;;) {
      const end = this.buffer.indexOf("\r\n\r\n");
      if (end < 0) return;
      const length = Number(/Content-Length: (\d+)/i.exec(this.buffer.subarray(0, end).toString())[1]);
      if (this.buffer.length < end + 4 + length) return;
      const message = JSON.parse(this.buffer.subarray(end + 4, end + 4 + length).toString());
      this.buffer = this.buffer.subarray(end + 4 + length);
      this.hear(message);
    }
  }

  hear(message) {
    if (message.method === undefined) {
      this.replies.get(message.id)?.(message.result);
    } else if (message.method === "textDocument/publishDiagnostics") {
      this.waiting.get(message.params.uri)?.(message.params.diagnostics);
      this.waiting.delete(message.params.uri);
    } else if (message.method === "telemetry/event") {
      // So it tells that it failed inside: what it finds is then too little.
      const { name, properties } = message.params;
      if (/error/.test(name)) this.failures.push(`${name}: ${properties?.error?.split("\n").slice(0, 5).join(" ")}`);
    } else if (message.id !== undefined) {
      const answer = message.method === "workspace/configuration" ? message.params.items.map((item) => this.settings[item.section] ?? {}) : null;
      this.send({ id: message.id, result: answer });
    }
  }

  send(message) {
    const text = JSON.stringify({ jsonrpc: "2.0", ...message });
    this.process.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
  }

  request(method, params) {
    const id = this.next++;
    return new Promise((done) => {
      this.replies.set(id, done);
      this.send({ id, method, params });
    });
  }

  notify(method, params) {
    this.send({ method, params });
  }

  async start() {
    const rootUri = pathToFileURL(root).href;
    const capabilities = { workspace: { configuration: true }, textDocument: { completion: { completionItem: { snippetSupport: false } } } };
    await this.request("initialize", { processId: process.pid, rootUri, capabilities, workspaceFolders: [{ uri: rootUri, name: "root" }] });
    this.notify("initialized", {});
  }

  /** Opens `text` as the file `path` and waits for what the server finds. */
  open(path, text) {
    const uri = pathToFileURL(path).href;
    const found = new Promise((done) => this.waiting.set(uri, done));
    this.notify("textDocument/didOpen", { textDocument: { uri, languageId: "yaml", version: 1, text } });
    return found;
  }

  async complete(path, text, line, character) {
    await this.open(path, text);
    const uri = pathToFileURL(path).href;
    const answer = await this.request("textDocument/completion", { textDocument: { uri }, position: { line, character } });
    this.notify("textDocument/didClose", { textDocument: { uri } });
    return (answer?.items ?? answer ?? []).map((item) => item.label);
  }
}

/** The lines that `olmo-pipe validate` names in `file` itself, from 1. */
function ours(file) {
  const content = readFileSync(join(root, file), "utf8");
  const options = [...content.matchAll(/^# (set|profile|sweep): (.*)$/gm)].flatMap(([, name, value]) => [`--${name}`, value]);
  let text;
  try {
    text = execFileSync(program, ["validate", "--json", file, ...options], { cwd: root, stdio: ["ignore", "pipe", "pipe"] }).toString();
  } catch (error) {
    text = error.stdout.toString();
  }
  const errors = JSON.parse(text).errors;
  return { count: errors.length, lines: new Set(errors.filter((e) => e.span?.file === file).map((e) => e.span.line)) };
}

const client = new Client(server());
const folder = mkdtempSync(join(tmpdir(), "lsp-check-"));
let failures = 0;
const check = (good, text) => {
  if (!good) failures += 1;
  if (!good || report) console.log(`${good ? "ok    " : "FAILED"} ${text}`);
};

// One schema for each pipeline of the samples and of the project, as `schema --for` makes it.
const schemas = {};
const schemaFor = (pipeline) => {
  const path = join(folder, `${pipeline.replaceAll("/", "_")}.schema.json`);
  writeFileSync(path, execFileSync(program, ["schema", "--for", pipeline], { cwd: root }));
  return path;
};
const small = schemaFor("tests/fixtures/pipelines/small.yaml");
const finetune = schemaFor("pipelines/finetune.yaml");
const samples = (kind) => readdirSync(join(root, "tests/fixtures", kind)).filter((name) => name.endsWith(".yaml")).map((name) => `tests/fixtures/${kind}/${name}`);
const uses = (file) => /^uses: (.*)$/m.exec(readFileSync(join(root, file), "utf8"))?.[1];
const onSmall = [...samples("valid"), ...samples("invalid")].filter((file) => uses(file)?.endsWith("pipelines/small.yaml"));
schemas[pathToFileURL(small).href] = onSmall.map((file) => join(root, file));
schemas[pathToFileURL(finetune).href] = [join(root, "experiments/finetune-tulu.yaml"), join(folder, "complete*.yaml")];
client.settings = { yaml: { schemas, validate: true, completion: true, schemaStore: { enable: false }, yamlVersion: "1.2" }, "[yaml]": {}, editor: {}, files: {} };
await client.start();

const counts = { valid: 0, wrong: 0, meaning: 0, yaml: 0 };
for (const file of [...onSmall, "experiments/finetune-tulu.yaml"]) {
  const text = readFileSync(join(root, file), "utf8");
  const theirs = await client.open(join(root, file), text);
  const lines = new Set(theirs.map((d) => d.range.start.line + 1));
  const failures = client.failures.splice(0);
  const { count, lines: known } = ours(file);
  const beyond = [...lines].filter((line) => !known.has(line));
  const told = `${file}: theirs ${[...lines].join(" ") || "none"}, ours ${[...known].join(" ") || "none"}`;
  const kind = /^# kind: (\w+)/.exec(text)?.[1] ?? "valid";
  // An empty key is one that it cannot name.
  if (failures.length > 0 && kind !== "yaml") check(false, `${file}: the server failed: ${failures.join("; ")}`);
  if (kind === "valid") {
    counts.valid += 1;
    check(count === 0 && lines.size === 0, told);
  } else if (kind === "form" || kind === "typed") {
    counts.wrong += 1;
    check(lines.size > 0 && beyond.length === 0, told);
  } else if (kind === "meaning") {
    counts.meaning += 1;
    check(count > 0 && beyond.length === 0, told);
  } else {
    // YAML itself: they read some words that we refuse, and may mark the line beside.
    counts.yaml += 1;
    const far = beyond.filter((line) => ![...known].some((other) => Math.abs(line - other) <= 1));
    check(count > 0 && far.length === 0, told);
  }
}
check(counts.valid >= 5 && counts.wrong >= 5, `enough samples: ${JSON.stringify(counts)}`);

// Completion: text with `|` where the cursor is, and words that must be offered.
let number = 0;
for (const [what, text, words] of [
  ["params", "experiment: x\nuses: y\nparams:\n  |", ["lr", "seed", "template", "model", "prompts"]],
  ["stages", "experiment: x\nuses: y\nstages:\n  |", ["train", "eval", "tokenizer", "chat_tokens", "best"]],
  ["ports and params of a stage", "experiment: x\nuses: y\nstages:\n  train:\n    with:\n      |", ["data", "eval_data", "init", "max_duration", "optimizer"]],
  ["the parts of a stage", "experiment: x\nuses: y\nstages:\n  train:\n    |", ["with", "resources", "timeout"]],
  ["fields of a record", "experiment: x\nuses: y\nstages:\n  train:\n    with:\n      optimizer:\n        |", ["learning_rate", "betas"]],
  ["allowed values", "experiment: x\nuses: y\nparams:\n  template: |", ["tulu"]],
  ["presets", "experiment: x\nuses: y\nstages:\n  train:\n    with:\n      model:\n        preset: |", ["olmo2-190M", "olmo3-7B"]],
  ["profiles' params", "experiment: x\nuses: y\nprofiles:\n  big:\n    |", ["lr", "global_batch_size"]],
  ["paths of a sweep", "experiment: x\nuses: y\nsweep:\n  grid:\n    |", ["params.lr", "params.seed"]],
  ["keys of an experiment", "experiment: x\n|", ["uses", "extends", "params", "profiles", "sweep"]],
]) {
  const before = text.slice(0, text.indexOf("|"));
  const line = before.split("\n").length - 1;
  const offered = await client.complete(join(folder, `complete${number++}.yaml`), text.replace("|", ""), line, before.length - before.lastIndexOf("\n") - 1);
  if (client.failures.length > 0) check(false, `the server failed: ${client.failures.splice(0).join("; ")}`);
  const missing = words.filter((word) => !offered.includes(word));
  check(missing.length === 0, `completion of ${what}: ${missing.length ? `without ${missing.join(", ")}; offered ${offered.slice(0, 20).join(", ")}` : `${offered.length} offered`}`);
}

client.process.kill();
rmSync(folder, { recursive: true });
console.log(`${counts.valid} valid and ${counts.wrong + counts.meaning + counts.yaml} faulty files, ${number} completions: ${failures ? `${failures} FAILED` : "the editor and validate agree"}`);
process.exit(failures ? 1 : 0);
