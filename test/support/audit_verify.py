#!/usr/bin/env python3
"""A second opinion on an audit log, written from docs/audit.md alone, with nothing but the standard library.

usage: audit_verify.py DIR [CHECKPOINT_FILE ...] [--key FILE]

Prints what it found as JSON; exit status 0 if the log is intact, 1 if it is not, 2 on wrong use, 3 if it has to give up
on a version that it does not know. There is no Ed25519 in the standard library: the heads of checkpoints are compared,
their signatures are NOT checked, and what only they could say (`forged`) is not judged.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys

DOMAIN = b"isoproxy-audit-v1/record\n"
RECORD = re.compile(rb'\{"v":([0-9]+),"seq":.*,"hash":"([0-9a-f]{64})"\}')
SEGMENT = re.compile(r"log-([0-9]{16})\.jsonl")
NOTE = re.compile(
    r"^(isoproxy-audit/[0-9a-f]{16})\n([1-9][0-9]*)\n([A-Za-z0-9+/]{43}=)\nfirst [1-9][0-9]*\ntime \S+\n"
    r"(?:[^\n]+\n)*(?=\n(?:\u2014 [^\n]*\n)+)",
    re.MULTILINE,
)


class UnknownVersion(Exception):
    """A `v` that this verifier does not know: it has nothing to say."""


def integer(value):
    return type(value) is int and 0 <= value < 2**53


def positive(value):
    return integer(value) and value > 0


def boolean(value):
    return type(value) is bool


def is_true(value):
    return value is True


def text(longest=1024):
    return lambda value: type(value) is str and len(value) <= longest


def match(pattern):
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: type(value) is str and compiled.fullmatch(value) is not None


def names(value):
    return type(value) is list and 0 < len(value) <= 16 and all(text(32)(name) for name in value)


HEX_64 = match(r"[0-9a-f]{64}")
HEX_16 = match(r"[0-9a-f]{16}")
TIME = match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# What the members of a record have to be, where they are.
CHECKS = {
    "v": positive,
    "seq": positive,
    "boot_id": match(r"[0-9a-f]{8}"),
    "time": TIME,
    "mono_us": integer,
    "kind": text(),
    "truncated": is_true,
    "prev": HEX_64,
    "hash": HEX_64,
    "version": text(),
    "log_id": HEX_16,
    "durability": match(r"commit|async"),
    "clean": boolean,
    "bytes": positive,
    "sha256": HEX_64,
    "config": HEX_16,
    "generation": positive,
    "request_id": text(),
    "listener": text(),
    "provider": text(),
    "method": text(32),
    "path": text(512),
    "query_names": names,
    "rule": text(96),
    "decision": match(r"allow|deny"),
    "reason": text(200),
    "status": integer,
    "bytes_in": integer,
    "bytes_out": integer,
    "duration_us": integer,
    "count": positive,
    "since_us": integer,
    "scope": match(r"all|(provider|listener) .+"),
    "size": positive,
    "head": HEX_64,
    "first": positive,
    "signed": TIME,
    "signature": match(r"[A-Za-z0-9+/]{91}="),
    "failure": text(),
    "lost": integer,
}
FIRST = "v seq boot_id time mono_us kind".split()
LAST = "truncated prev hash".split()
KINDS = {
    "start": "version log_id durability clean",
    "recovered": "bytes sha256",
    "config": "config generation",
    "intent": "request_id listener provider method path query_names rule decision config",
    "outcome": "request_id listener provider decision reason status bytes_in bytes_out duration_us",
    "deny": "request_id listener provider method path decision reason status bytes_in bytes_out duration_us config",
    "deny_summary": "listener provider reason count since_us",
    "halt": "scope reason",
    "resume": "scope reason",
    "checkpoint": "size head first signed signature",
    "cleared": "reason failure since_us",
    "stop": "lost",
}
# The page says when these are absent.
OPTIONAL = {"query_names", "truncated"}
# Without these a record of its kind is of no use to a verifier.
NEEDED = {
    "start": ["log_id"],
    "intent": ["request_id"],
    "outcome": ["request_id"],
    "checkpoint": ["size", "head", "first", "signed", "signature"],
}


def read_record(line, key):
    """The record that a line is, or what is wrong with it: "edited" or "malformed"."""
    found = RECORD.fullmatch(line)
    if len(line) + 1 > 1024 or found is None:
        return "malformed"
    try:
        record = json.loads(line.decode("latin-1"))
    except ValueError:
        return "malformed"
    if found.group(1) != b"1":
        raise UnknownVersion(f"a record of version {found.group(1).decode()}")
    # No white space, no member twice, one way to write each string and number.
    canonical = json.dumps(record, separators=(",", ":")).replace("\x7f", "\\u007f")
    if canonical.encode() != line or not is_well_formed(record):
        return "malformed"
    expected = hmac.new(key, DOMAIN + line[:-75], hashlib.sha256).hexdigest()
    return record if hmac.compare_digest(expected, record["hash"]) else "edited"


def own_members(record):
    return KINDS.get(record["kind"], "").split()


def is_well_formed(record):
    """The members that are known are in their order; unknown ones only between `kind` and `truncated`."""
    if type(record.get("kind")) is not str:
        return False
    known = FIRST + own_members(record) + LAST
    present = list(record)
    in_order = [name for name in known if name in record]
    if [name for name in present if name in known] != in_order:
        return False
    if any(name not in record for name in [*FIRST, *NEEDED.get(record["kind"], []), "prev", "hash"]):
        return False
    end = present.index("truncated" if "truncated" in record else "prev")
    if any(name not in known and not len(FIRST) <= at < end for at, name in enumerate(present)):
        return False
    return all(CHECKS[name](record[name]) for name in in_order)


def is_complete(record):
    """Whether a record has all that the page says a record of its kind has."""
    return all(name in record or name in OPTIONAL for name in own_members(record))


def read_lines(directory, key):
    """(record or what is wrong with it, name of the segment that it is first in), and whether there is a torn line."""
    files = sorted(name for name in os.listdir(directory) if SEGMENT.fullmatch(name))
    result = []
    torn = False
    for name in files:
        with open(os.path.join(directory, name), "rb") as file:
            *lines, rest = file.read().split(b"\n")
        if rest and name == files[-1]:
            torn = True
        elif rest:
            lines.append(rest)
        for position, line in enumerate(lines):
            result.append((read_record(line, key), int(name[4:20]) if position == 0 else None))
    return result, torn


def ranges(numbers):
    result = []
    for number in sorted(numbers):
        if result and result[-1][1] == number - 1:
            result[-1][1] = number
        else:
            result.append([number, number])
    return result


class Log:
    def __init__(self, lines):
        self.lines = lines
        self.faults = []
        self.records = [read for read, _ in lines if isinstance(read, dict)]
        self.by_number = {}
        # Numbers that lines have which are no right records.
        self.taken = set()
        newest = max(self.of("checkpoint"), key=lambda record: record["seq"], default={"first": 1})
        # An announced removal is believed: it is a signature that could say otherwise.
        self.kept = newest["first"]
        self.check_order()
        self.check_others()
        self.present = sorted(self.taken.union(self.by_number))
        self.check_presence()
        self.check_chain()

    def of(self, kind):
        return [record for record in self.records if record["kind"] == kind]

    def fault(self, kind, start, end):
        self.faults.append({"kind": kind, "from": start, "to": end})

    def check_order(self):
        found = {"repeated": set(), "forked": set(), "disorder": set()}
        highest = 0
        for record, segment in self.lines:
            if not isinstance(record, dict):
                continue
            seq = record["seq"]
            if segment is not None and segment != seq:
                self.fault("disorder", seq, seq)
            twins = self.by_number.setdefault(seq, [])
            if record["hash"] in twins:
                found["repeated"].add(seq)
            elif twins:
                found["forked"].add(seq)
            elif seq < highest:
                found["disorder"].add(seq)
            twins.append(record["hash"])
            highest = max(highest, seq)
        for kind, numbers in found.items():
            for start, end in ranges(numbers):
                self.fault(kind, start, end)

    def check_others(self):
        """Lines that are no right records take the numbers that are free between those that are."""
        # Before the first record it is the name of its segment that says where the free numbers begin.
        before = (self.lines[0][1] if self.lines else 1) - 1
        run = []
        for read, _ in self.lines:
            if isinstance(read, dict):
                self.close(before, run, read["seq"])
                before = read["seq"]
                run = []
            else:
                run.append(read)
        before = max([before, *self.by_number])
        self.close(before, run, before + len(run) + 1)

    def close(self, before, run, following):
        if not run:
            return
        free = range(before + 1, following)
        if not free:
            self.fault("inserted", min(before, following), max(before, following))
            return
        for kind in set(run):
            self.fault(kind, free[0], free[-1])
        if len(run) < len(free):
            self.fault("missing", free[0], free[-1])
        self.taken.update(free)

    def check_presence(self):
        if self.present:
            expected = range(min(self.kept, self.present[0]), self.present[-1])
            for start, end in ranges(set(expected).difference(self.present)):
                self.fault("missing", start, end)

    def check_chain(self):
        for record in self.records:
            seq = record["seq"]
            before = ["0" * 64] if seq == 1 else self.by_number.get(seq - 1)
            if before is not None and record["prev"] not in before:
                self.fault("rewritten", max(seq - 1, 1), seq)


class Checkpoints:
    def __init__(self, log):
        self.log = log
        # The log says itself which it is, or, if its starts are gone, every checkpoint is its own.
        self.origins = {"isoproxy-audit/" + record["log_id"] for record in log.of("start")}
        self.own = self.foreign = 0
        # (size, head, whether it is an anchor)
        self.found = [(record["size"], record["head"], False) for record in log.of("checkpoint")]

    def read(self, content, is_anchor):
        for note in NOTE.finditer(content):
            is_own = not self.origins or note.group(1) in self.origins
            self.own += is_anchor and is_own
            self.foreign += is_anchor and not is_own
            if is_own:
                self.found.append((int(note.group(2)), base64.b64decode(note.group(3)).hex(), is_anchor))

    def check(self):
        """Holds the log against them and says how far an anchor vouches for it."""
        log = self.log
        first = log.present[0] if log.present else 1
        last = log.present[-1] if log.present else 0
        highest = max([size for size, _, _ in self.found], default=0)
        if highest > last:
            log.fault("cut", last + 1, highest)
        if self.foreign and not self.own:
            log.fault("foreign", first, last)
        right = [one for one in self.found if one[1] in log.by_number.get(one[0], [])]
        wrong = [one[0] for one in self.found if one[0] in log.by_number and one not in right]
        if wrong:
            below = [size for size, _, _ in right if size < min(wrong)]
            log.fault("rewritten", max([first - 1, *below]) + 1, max(wrong))
        return max([size for size, _, is_anchor in right if is_anchor], default=0)


def unwrap(kept):
    """The texts of notes in what was kept elsewhere: as they are, and in the lines of the event."""
    notes = [kept]
    for line in kept.split("\n"):
        event = parse_object(line[max(line.find("{"), 0) :])
        if isinstance(event.get("MESSAGE"), str):
            event = parse_object(event["MESSAGE"])
        if event.get("event") == "audit_checkpoint":
            notes.append(f"\n{event.get('note')}\n")
    return "".join(notes)


def parse_object(line):
    try:
        return json.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}


def count_intents(log):
    """Intents without an outcome: those of a process that has ended, and those that may be under way."""
    ended = {(record["boot_id"], record["request_id"]) for record in log.of("outcome")}
    running = log.records[-1]["boot_id"] if log.records else None
    stopped = any(record["boot_id"] == running for record in log.of("stop"))
    boots = [
        record["boot_id"]
        for record in log.of("intent")
        if (record["boot_id"], record["request_id"]) not in ended
    ]
    is_open = 0 if stopped else boots.count(running)
    return {"unfinished": len(boots) - is_open, "open": is_open}


def read_text(path):
    # Without newline="" a carriage return would silently become what it is not.
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read()


def verify(directory, key, anchors):
    lines, torn = read_lines(directory, key)
    log = Log(lines)
    checkpoints = Checkpoints(log)
    for path in anchors:
        checkpoints.read(unwrap(read_text(path)), True)
    own = os.path.join(directory, "checkpoints")
    if os.path.exists(own):
        checkpoints.read(read_text(own), False)
    anchored_to = checkpoints.check()
    return {
        "ok": not log.faults,
        "records": len(log.records),
        "anchoredTo": anchored_to,
        "torn": torn,
        **count_intents(log),
        "incomplete": sum(not is_complete(record) for record in log.records),
        "faults": sorted(log.faults, key=lambda one: (one["kind"], one["from"], one["to"])),
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
    try:
        verdict = verify(arguments[0], key[:-1] if key.endswith(b"\n") else key, arguments[1:])
    except UnknownVersion as error:
        print(error, file=sys.stderr)
        return 3
    print(json.dumps(verdict))
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
