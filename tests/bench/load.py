# SPDX-License-Identifier: LGPL-2.1-or-later

"""What clients do: fio, on an NBD server."""

import json
import subprocess

from servers import BenchError

FIO_TIMEOUT = 120


def run_fio(name, sock, runtime, seed, options, output):
    """Run fio with these options; return what it says of all jobs together.
    They are threads, since its processes would start sessions of their own
    and outlive it.
    """
    command = ["setpriv", "--pdeathsig", "TERM",
               "fio", "--thread=1", "--ioengine=nbd",
               "--uri=nbd+unix:///?socket=" + sock,
               "--group_reporting=1", "--randseed=%d" % seed,
               "--runtime=%dms" % (runtime * 1000), *options,
               "--output-format=json", "--output=" + output]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL,
                             capture_output=True, text=True, check=False,
                             timeout=FIO_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BenchError("%s: fio did not end within %d seconds"
                         % (name, FIO_TIMEOUT)) from None
    with open(output) as f:
        text = f.read()
    start = text.find("{")              # messages may stand before it
    if run.returncode != 0 or start < 0:
        raise BenchError("%s: fio failed: %s"
                         % (name, run.stderr.strip() or text.strip()))
    job = json.loads(text[start:])["jobs"][0]
    if job["error"] != 0:
        raise BenchError("%s: fio: error %d" % (name, job["error"]))
    return job
