#!/usr/bin/env python3
"""Makes crates/olmo-data/tests/templates: chat templates as transformers renders and tokenizes them.

  snippets.json  Small templates (inputs: template_snippets.py), rendered in transformers' environment.
  styles.json    Chat templates in styles/*.jinja, rendered for each conversation.
  labels.json    Token ids and assistant masks from `apply_chat_template`.
  tokenizers/    The tokenizers that labels.json uses.

Pinned: python 3.11, transformers 5.24.0, jinja2 3.1.6, tokenizers 0.23.3.
Run from the repository's root:  python scripts/goldens/templates.py
Compare the files with a new run: python scripts/goldens/templates.py --check
"""

import json
import os
import pathlib
import sys
import tempfile
import warnings

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.dont_write_bytecode = True
warnings.filterwarnings("ignore", category=SyntaxWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)

import jinja2
import template_snippets
import template_styles
import template_tokenizers
import tokenizers
import transformers
from transformers.utils.chat_template_utils import (
    _compile_jinja_template,
    _normalize_chat_messages,
    _render_with_assistant_indices,
    render_jinja_template,
)

FOLDER = pathlib.Path("crates/olmo-data/tests/templates")
VERSIONS = {
    "python": "3.11",
    "transformers": "5.24.0",
    "jinja2": "3.1.6",
    "tokenizers": "0.23.3",
}


def describe(error):
    """`TypeName: message`, without the source line that a syntax error appends."""
    message = error.message if isinstance(error, jinja2.TemplateError) else str(error)
    return f"{type(error).__name__}: {message}"


def attempt(function):
    """The value and no error, or no value and the error."""
    try:
        return function(), None
    except Exception as error:
        return None, describe(error)


def snippets():
    counts = {}
    for group, template, context in template_snippets.CASES:
        counts[group] = number = counts.get(group, 0) + 1
        expected, error = attempt(lambda: _compile_jinja_template(template).render(**context))
        case = {
            "name": f"{group}-{number}",
            "template": template,
            "context": context,
            "expected": expected,
            "error": error,
        }
        if "generation" in template and error is None:
            full = {"messages": None, "tools": None, "documents": None, "add_generation_prompt": None, **context}
            rendered, spans = _render_with_assistant_indices(_compile_jinja_template(template), **full)
            assert rendered == expected, template
            case["generation_indices"] = spans
        yield case


def style_source(name):
    return (FOLDER / "styles" / f"{name}.jinja").read_text(encoding="utf-8")


def render(source, conversation, special_tokens, add_generation_prompt):
    """Renders as `apply_chat_template` does: the text, and the spans if the template has generation tags."""
    has_tags = "generation %}" in source or "generation -%}" in source
    rendered, spans = render_jinja_template(
        conversations=[_normalize_chat_messages(conversation["messages"])],
        tools=conversation.get("tools"),
        documents=conversation.get("documents"),
        chat_template=source,
        return_assistant_tokens_mask=has_tags,
        add_generation_prompt=add_generation_prompt,
        **{**special_tokens, **conversation.get("kwargs", {})},
    )
    return {"text": rendered[0], "generation_indices": spans[0]} if has_tags else {"text": rendered[0]}


def styles():
    for style, special_tokens in template_styles.STYLES.items():
        source = style_source(style)
        for name, conversation in template_styles.CONVERSATIONS.items():
            outputs = []
            for add_generation_prompt in [False, True]:
                output, error = attempt(lambda: render(source, conversation, special_tokens, add_generation_prompt))
                outputs.append(output if error is None else {"error": error})
            yield {"style": style, "conversation": name, "outputs": outputs}


def labels(folder):
    """Token ids and masks of each template with generation tags, for each tokenizer in `folder`."""
    for name, tokenizer in template_tokenizers.TOKENIZERS.items():
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / f"{name}.json"), **tokenizer["special_tokens"]
        )
        for style in template_styles.LABELLED:
            source = style_source(style)
            for conversation, given in template_styles.CONVERSATIONS.items():
                arguments = {
                    "tools": given.get("tools"),
                    "documents": given.get("documents"),
                    "tokenize": True,
                    "return_dict": True,
                    **given.get("kwargs", {}),
                }
                out, error = attempt(
                    lambda: fast.apply_chat_template(
                        given["messages"], chat_template=source, return_assistant_tokens_mask=True, **arguments
                    )
                )
                case = {"tokenizer": name, "style": style, "conversation": conversation}
                if error is not None:
                    yield case | {"error": error}
                    continue
                plain = template_styles.PAIRS.get(style)
                if plain is not None:
                    untagged = fast.apply_chat_template(
                        given["messages"], chat_template=style_source(plain), **arguments
                    )
                    assert untagged["input_ids"] == out["input_ids"], (name, style, conversation)
                yield case | {"input_ids": out["input_ids"], "assistant_masks": out["assistant_masks"]}


def compact(value):
    """JSON on one line in ASCII. Control and format characters stay visible in a diff."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def document(about, **sections):
    """A JSON object with one element of each list per line."""
    head = {"_doc": f"made by scripts/goldens/templates.py; {about}", "versions": VERSIONS}
    parts = [f"{compact(key)}:{compact(value)}" for key, value in head.items()]
    for key, rows in sections.items():
        if isinstance(rows, dict):
            body = ",\n".join(f"{compact(name)}:{compact(row)}" for name, row in rows.items())
            parts.append(f"{compact(key)}:{{\n{body}\n}}")
        else:
            body = ",\n".join(map(compact, rows))
            parts.append(f"{compact(key)}:[\n{body}\n]")
    text = "{" + ",\n".join(parts) + "}\n"
    assert " at 0x" not in text, "an address of this process in the output"
    return text


def outputs():
    """Each file to write, by its path in the folder."""
    yield "snippets.json", document("one template per case", cases=snippets())
    found = {path.stem for path in (FOLDER / "styles").glob("*.jinja")}
    assert found == set(template_styles.STYLES), found ^ set(template_styles.STYLES)
    yield "styles.json", document(
        "`outputs` has the result without and with the generation prompt; messages are normalized before rendering",
        special_tokens=template_styles.STYLES,
        conversations=template_styles.CONVERSATIONS,
        cases=styles(),
    )
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work)
        for name, text in template_tokenizers.build():
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
            yield f"tokenizers/{name}.json", text
        yield "labels.json", document(
            "conversations and templates are those of styles.json; `pairs` maps a tagged template to the same one untagged",
            tokenizers=template_tokenizers.TOKENIZERS,
            pairs=template_styles.PAIRS,
            cases=labels(folder),
        )


def check_versions():
    found = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "transformers": transformers.__version__,
        "jinja2": jinja2.__version__,
        "tokenizers": tokenizers.__version__,
    }
    if found != VERSIONS:
        sys.exit(f"templates.py: needs {VERSIONS}, found {found}")


def main():
    check_versions()
    different = []
    for name, text in outputs():
        path = FOLDER / name
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                different.append(str(path))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if different:
        sys.exit("templates.py: differ from a new run: " + ", ".join(different))


if __name__ == "__main__":
    main()
