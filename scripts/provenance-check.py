#!/usr/bin/env python3
"""Reads what `olmo-pipe artifacts provenance` writes with the packages of those who define the forms.

usage: scripts/provenance-check.py PROJECT ARTIFACT      (olmo-pipe from target/release, or OLMO_PIPE)
needs: pip install openlineage-python==1.54.0 in-toto-attestation==0.9.3

The in-toto statement is parsed into its protobuf message, which knows no other field, and checked by the package's own
`validate`. Each OpenLineage event is built again from the package's classes, which check run ids and times, and what they
write is compared with what was read.
"""
import json
import os
import subprocess
import sys
from urllib.parse import urlsplit

from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.serde import Serde

HERE = os.path.dirname(os.path.abspath(__file__))
OLMO = os.path.abspath(os.environ.get("OLMO_PIPE", os.path.join(HERE, "../target/release/olmo-pipe")))


def written(project, artifact, form):
    command = [OLMO, "artifacts", "provenance", artifact, "--as", form]
    return subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout


def in_toto(text):
    message = json_format.Parse(text, statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    for subject in message.subject:
        if not subject.digest:
            raise SystemExit(f"subject {subject.name} has no digest")
    return len(message.subject)


def openlineage(line):
    event = json.loads(line)
    plain = lambda kind, dataset: kind(namespace=dataset["namespace"], name=dataset["name"])
    built = RunEvent(
        eventType=RunState[event["eventType"]],
        eventTime=event["eventTime"],
        run=Run(runId=event["run"]["runId"]),
        job=Job(namespace=event["job"]["namespace"], name=event["job"]["name"]),
        inputs=[plain(InputDataset, d) for d in event.get("inputs", [])],
        outputs=[plain(OutputDataset, d) for d in event.get("outputs", [])],
        producer=event["producer"],
    )
    again = json.loads(Serde.to_json(built))
    for name in ("eventType", "eventTime", "producer"):
        if again[name] != event[name]:
            raise SystemExit(f"{name}: {event[name]} became {again[name]}")
    if event["schemaURL"].split("#")[0].rsplit("/", 1)[0] != again["schemaURL"].split("#")[0].rsplit("/", 1)[0]:
        raise SystemExit(f"schemaURL: {event['schemaURL']}, the package has {again['schemaURL']}")
    known = set(again) | {"inputs", "outputs"}
    if set(event) - known:
        raise SystemExit(f"unknown fields: {set(event) - known}")
    # Every facet says who made it and by which schema.
    holders = [event["run"], event["job"], *event.get("inputs", []), *event.get("outputs", [])]
    for facet in (f for holder in holders for f in holder.get("facets", {}).values()):
        if not (urlsplit(facet["_producer"]).scheme and urlsplit(facet["_schemaURL"]).scheme):
            raise SystemExit(f"a facet without its schema: {facet}")


def main():
    project, artifact = sys.argv[1:]
    print(f"in-toto: {in_toto(written(project, artifact, 'in-toto'))} subjects")
    lines = written(project, artifact, "openlineage").splitlines()
    for line in lines:
        openlineage(line)
    print(f"OpenLineage: {len(lines)} events")


if __name__ == "__main__":
    main()
