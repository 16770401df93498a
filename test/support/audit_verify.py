#!/usr/bin/env python3
"""A second opinion on an audit log, written from docs/audit.md alone, with nothing but the standard library.

usage: audit_verify.py DIR [CHECKPOINT_FILE ...] [--key FILE]

Prints what it found as JSON; exit status 0 if the log is intact, 1 if it is not, 2 on wrong use. There is no Ed25519
in the standard library: the heads of checkpoints are compared, their signatures are NOT checked.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys

DOMAIN = b"isoproxy-audit-v1/record\n"
# What every record begins and ends with; the members between them are looked at as JSON.
RECORD = re.compile(
    rb'\{"v":1,"seq":[1-9][0-9]{0,15},"boot_id":"[0-9a-f]{8}",'
    rb'"time":"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z",'
    rb'"mono_us":[0-9]{1,16},"kind":"[a-z_]+",.*"prev":"[0-9a-f]{64}","hash":"([0-9a-f]{64})"\}'
)
ORDER = (
    "v seq boot_id time mono_us kind request_id listener provider method path truncated query_names rule decision "
    "reason status bytes_in bytes_out duration_us config OTHERS prev hash"
).split()
# What this verifier needs of single kinds.
NEEDED = {
    "start": {"log_id": str},
    "intent": {"request_id": str},
    "outcome": {"request_id": str},
    "checkpoint": {"size": int, "first": int, "head": str},
}
SEGMENT = re.compile(r"log-([0-9]{16})\.jsonl")
NOTE = re.compile(
    r"(\S+)\n([1-9][0-9]*)\n([A-Za-z0-9+/]{43}=)\nfirst ([1-9][0-9]*)\ntime \S+\n(?:[^\n]+\n)*"
)


def read_record(line, key):
    """The record that a line is, or None if it is not well-formed or its hash is wrong."""
    if len(line) + 1 > 1024 or any(byte < 0x20 or byte > 0x7E for byte in line):
        return None
    found = RECORD.fullmatch(line)
    if found is None:
        return None
    expected = hmac.new(key, DOMAIN + line[:-75], hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, found.group(1).decode()):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    ranks = [ORDER.index(name if name in ORDER else "OTHERS") for name in record]
    if ranks != sorted(ranks):
        return None
    if any(type(record.get(name)) is not kind for name, kind in NEEDED.get(record["kind"], {}).items()):
        return None
    return record


class Log:
    def __init__(self, directory, key):
        self.faults = []
        self.sealed = {}
        self.edited = set()
        self.misnamed = []
        self.torn = False
        self.expected = 1
        self.damaged = 0
        names = sorted(name for name in os.listdir(directory) if SEGMENT.fullmatch(name))
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                self.read_segment(int(name[4:20]), file.read(), key, name == names[-1])
        self.settle(None)
        self.present = sorted(self.edited.union(self.sealed))
        self.last = self.expected - 1

    def fault(self, kind, start, end):
        self.faults.append({"kind": kind, "from": start, "to": end})

    def settle(self, following):
        """Lines whose own number cannot be believed have the numbers between their neighbours'."""
        if self.damaged == 0:
            return
        count = self.damaged
        if following is not None:
            count = min(count, max(following - self.expected, 0))
        self.fault("edited", self.expected, self.expected + max(count, 1) - 1)
        self.edited.update(range(self.expected, self.expected + count))
        self.expected += count
        self.damaged = 0

    def read_segment(self, start, content, key, is_last):
        self.settle(start)
        self.expected = max(self.expected, start)
        *lines, rest = content.split(b"\n")
        for position, line in enumerate(lines):
            record = read_record(line, key)
            if record is None:
                self.damaged += 1
                continue
            seq = record["seq"]
            self.settle(seq)
            if position == 0 and seq != start:
                self.misnamed.append((start, seq))
            if seq < self.expected:
                self.fault("rewritten", seq, self.expected - 1)
            self.sealed.setdefault(seq, record)
            self.expected = max(self.expected, seq + 1)
        if rest and is_last:
            self.torn = True
        elif rest:
            self.damaged += 1

    def of(self, kind):
        return [record for record in self.sealed.values() if record["kind"] == kind]

    def check_chain(self):
        for seq, record in self.sealed.items():
            before = "0" * 64 if seq == 1 else self.sealed.get(seq - 1, {}).get("hash")
            if before is not None and before != record["prev"]:
                self.fault("rewritten", max(seq - 1, 1), seq)
        newest = max(self.of("checkpoint"), key=lambda record: record["seq"], default={"first": 1})
        following = min([newest["first"], *self.present[:1]])
        missing = []
        for number in [*self.present, self.last + 1]:
            if number > following:
                missing.append((following, number - 1))
            following = max(following, number + 1)
        for start, end in missing:
            self.fault("missing", start, end)
        for name, seq in self.misnamed:
            if not any(start <= name <= end for start, end in missing):
                self.fault("rewritten", min(name, seq), max(name, seq))

    def read_notes(self, content, is_anchor):
        """(size, head, whether it bounds what was rewritten, whether it is an anchor) of each note of this log."""
        origins = {"isoproxy-audit/" + record["log_id"] for record in self.of("start")}
        parts = content.split("\n\n")
        for index in range(0, len(parts) - 1, 2):
            if index + 2 >= len(parts) and not parts[index + 1].endswith("\n"):
                break  # still being written
            note = NOTE.fullmatch(parts[index] + "\n")
            if note is None:
                self.fault("checkpoint", 0, 0)
            elif not origins or note.group(1) in origins:
                yield int(note.group(2)), base64.b64decode(note.group(3)).hex(), True, is_anchor

    def check_checkpoints(self, checkpoints):
        first = self.present[0] if self.present else self.last + 1
        fitting = first - 1
        anchored_to = 0
        for size, head, is_bound, is_anchor in sorted(checkpoints, key=lambda checkpoint: checkpoint[0]):
            if size > self.last:
                self.fault("cut", self.last + 1, size)
            record = self.sealed.get(size)
            if size < first or record is None:
                continue
            if record["hash"] != head:
                self.fault("rewritten", min(fitting + 1, size), size)
                continue
            if is_bound:
                fitting = size
            if is_anchor:
                anchored_to = size
        return anchored_to

    def merged(self):
        result = []
        for fault in sorted(self.faults, key=lambda one: (one["kind"], one["from"], one["to"])):
            before = result[-1] if result else None
            if before and before["kind"] == fault["kind"] and fault["from"] <= before["to"] + 1:
                before["to"] = max(before["to"], fault["to"])
            else:
                result.append(dict(fault))
        return result


def read_text(path):
    # Without newline="" a carriage return would silently become what it is not.
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read()


def verify(directory, key, anchors):
    log = Log(directory, key)
    log.check_chain()
    checkpoints = [note for path in anchors for note in log.read_notes(read_text(path), True)]
    own = os.path.join(directory, "checkpoints")
    if os.path.exists(own):
        checkpoints += log.read_notes(read_text(own), False)
    checkpoints += [(record["size"], record["head"], False, False) for record in log.of("checkpoint")]
    anchored_to = log.check_checkpoints(checkpoints)
    ended = {(record["boot_id"], record["request_id"]) for record in log.of("outcome")}
    intents = [(record["boot_id"], record["request_id"]) for record in log.of("intent")]
    return {
        "ok": not log.faults,
        "records": len(log.sealed),
        "anchoredTo": anchored_to,
        "torn": log.torn,
        "unfinished": sum(intent not in ended for intent in intents),
        "faults": log.merged(),
        "signatures": "not checked",
    }


def main(arguments):
    key_file = None
    if "--key" in arguments[:-1]:
        position = arguments.index("--key")
        key_file = arguments[position + 1]
        arguments = arguments[:position] + arguments[position + 2 :]
    if not arguments or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    with open(key_file or os.path.join(arguments[0], "hmac.key"), "rb") as file:
        key = file.read()
    verdict = verify(arguments[0], key[:-1] if key.endswith(b"\n") else key, arguments[1:])
    print(json.dumps(verdict))
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
