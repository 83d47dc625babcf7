#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later

"""The examples of a manual page as files that a shell can run.

    docs-blocks.py PAGE.pod DIRECTORY OLD=NEW ...

Each verbatim block of a page, but the synopsis, stands behind a paragraph
that says what it is:

    =for test run             commands that a user types, one after another in
                              one shell that begins in an empty directory
    =for test output          what those before it print; "..." stands for
                              anything
    =for test json            objects: must be well-formed
    =for test request         a request to a control socket: must be understood
    =for test text            no commands
    =for test skip REASON     commands that can't be run here

and without a block:

    =for test setup           what is needed, and not worth telling; commands
                              in the lines below

In the directory are then written, numbered in order: NN.run and NN.setup,
NN.output, NN.json, NN.request, NN.skip.  OLD=NEW replaces what can't be the
same in a test: names of hosts, ports, directories.
"""

import os
import re
import sys

KINDS = ("run", "output", "json", "request", "text", "skip")


def fail(page, message):
    sys.exit("%s: %s" % (os.path.basename(page), message))


def paragraphs(path):
    """The paragraphs; verbatim ones that follow each other are one."""
    block = None
    for text in re.split(r"\n(?:[ \t]*\n)+", open(path).read().strip("\n")):
        if text.startswith(" "):
            block = text if block is None else block + "\n\n" + text
            continue
        if block is not None:
            yield block
        block = None
        yield text
    if block is not None:
        yield block


def blocks(path):
    """(kind, text) of each block, without its indentation."""
    kind = heading = None
    for text in paragraphs(path):
        if text.startswith("=head1"):
            heading = text.split(None, 1)[1]
        if text.startswith("=for test"):
            first, _, rest = text.partition("\n")
            words = first.split(None, 3)[2:]
            if kind is not None:
                fail(path, "no block behind '=for test %s'" % kind[0])
            if words[:1] == ["setup"]:
                yield "setup", rest
            elif not words or words[0] not in KINDS or rest:
                fail(path, "what is '%s'?" % text)
            elif (words[0] == "skip") != (len(words) > 1):
                fail(path, "a reason is for blocks that are skipped: " + text)
            else:
                kind = words
        elif text.startswith(" "):
            text = re.sub("^ ", "", text, flags=re.M)
            if kind is not None:
                yield kind[0], kind[1] if kind[0] == "skip" else text
            elif heading != "SYNOPSIS":
                fail(path, "a block without '=for test':\n" + text)
            kind = None
        elif kind is not None:
            fail(path, "no block behind '=for test %s'" % kind[0])


def main():
    path, directory = sys.argv[1:3]
    for n, (kind, text) in enumerate(blocks(path)):
        for pair in sys.argv[3:]:
            old, new = pair.split("=", 1)
            text = text.replace(old, new)
        with open("%s/%02d.%s" % (directory, n, kind), "w") as f:
            f.write(text + "\n")


main()
