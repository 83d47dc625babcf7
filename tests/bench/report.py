# SPDX-License-Identifier: LGPL-2.1-or-later

"""What the benchmark tells: ratios, as a table, as JSON, as a chart."""

import json
import statistics
import subprocess

PEERS = ("file", "qemu")
KEYS = {"file": "nbdkit file on a raw file", "qemu": "qemu-nbd -f qed"}
LAYOUT = "%-20s %9s %9s %9s %-6s %-26s %-26s"


def summarize(case, values):
    """A case's result.  values: for each server the rate of each round.  The
    ratios are those of the servers within one round, so that what disturbs
    a round disturbs both sides.
    """
    result = compare(case.name, case.unit, values, case.targets)
    result.update({"rw": case.rw, "block_size": case.bs, "depth": case.depth,
                   "jobs": case.jobs, "image": case.image, "work": case.work})
    return result


def compare(name, unit, values, targets, less=False, limit=None):
    """A result.  less: what is measured should be small, and a ratio says how
    many times smaller ours is.  limit: what our median should stay below.
    """
    ratios = {}
    for peer in PEERS:
        if "ours" not in values or peer not in values:
            continue
        each = [b / a if less else a / b
                for a, b in zip(values["ours"], values[peer])]
        target = targets.get(peer)
        median = statistics.median(each)
        ratios[peer] = {
            "median": median, "min": min(each), "max": max(each),
            "target": target,
            "met": None if target is None else median >= target,
        }
    result = {
        "name": name, "unit": unit, "less_is_better": less,
        "rates": values,
        "medians": {s: statistics.median(v) for s, v in values.items()},
        "ratios": ratios,
    }
    if limit is not None and "ours" in values:
        result["limit"] = {"limit": limit,
                           "met": result["medians"]["ours"] < limit}
    return result


def table_head():
    return LAYOUT % ("case", "ours", "file", "qemu", "",
                     "ours/file (min-max)", "ours/qemu (min-max)")


def table_row(result):
    medians = [rate_to_text(result["medians"].get(s))
               for s in ("ours",) + PEERS]
    ratios = [ratio_to_text(result["ratios"].get(p)) for p in PEERS]
    return (LAYOUT % (result["name"], *medians, result["unit"],
                      *ratios)).rstrip() + limit_to_text(result)


def rate_to_text(rate):
    return "-" if rate is None else "%.0f" % rate


def ratio_to_text(ratio):
    """0.97 (0.95-0.99) >=0.95, with a ! where the target is missed."""
    if ratio is None:
        return "-"
    text = "%.2f (%.2f-%.2f)" % (ratio["median"], ratio["min"], ratio["max"])
    if ratio["target"] is not None:
        text += " >=%g" % ratio["target"]
        if not ratio["met"]:
            text += " !"
    return text


def limit_to_text(result):
    """  <2000 ms, with a ! where it is more."""
    if "limit" not in result:
        return ""
    limit = result["limit"]
    return "  <%g %s%s" % (limit["limit"], result["unit"],
                           "" if limit["met"] else " !")


def targets_met(results):
    """How many targets were met, and how many there are."""
    verdicts = [target["met"] for result in results
                for target in (*result["ratios"].values(),
                               result.get("limit", {"met": None}))
                if target["met"] is not None]
    return (sum(verdicts), len(verdicts))


def write_json(path, environment, results):
    with open(path, "w") as f:
        json.dump({"environment": environment, "cases": results}, f,
                  indent=2)
        f.write("\n")


CHART = """
set output '{path}'
set terminal svg size 1000,{height} font 'sans,12' background 'white'
set multiplot title "{title}" noenhanced
set key off
set yrange [{count} - 0.4:-0.6]
set style fill solid 0.9
set tics nomirror
set grid xtics lc rgb '#dddddd'
set tmargin screen 1 - 80.0/{height}
set bmargin screen 50.0/{height}
set xtics out
set ytics out scale 0

set lmargin screen 0.16
set rmargin screen 0.56
set title "ours / {file}" noenhanced
set xrange [0:1.1<*]
set ytics ({names}) noenhanced
set arrow 1 from 1, graph 0 to 1, graph 1 nohead lc rgb '#888888'
{labels}
$file << EOD
{file_rows}
EOD
plot {file_plot}

set lmargin screen 0.60
set rmargin screen 0.98
set title "ours / {qemu}" noenhanced
set xrange [0.5:2<*]
set logscale x
set xtics (0.5, 1, 2, 5, 10, 20, 50, 100)
unset ytics
unset label
$qemu << EOD
{qemu_rows}
EOD
plot {qemu_plot}
unset multiplot
"""

# Bar, range of the rounds, target.  Columns: row, median, min, max, target.
PLOT = ("${peer} using 2:1:({left}):2:($1-0.35):($1+0.35) "
        "with boxxyerror lc rgb '{colour}', "
        "${peer} using 2:1:3:4 with xerrorbars pt 0 lc rgb '#333333', "
        "${peer} using 5:1:(0):(0.45) with vectors nohead lw 3 "
        "lc rgb '#cc3311', "
        "${peer} using 5:1:(0):(-0.45) with vectors nohead lw 3 "
        "lc rgb '#cc3311'")


def write_svg(path, environment, results):
    """Draw the ratios: a bar is the median, its line the lowest and highest
    round, a red mark the target.
    """
    script = CHART.format(
        path=path.replace("'", "''"), height=130 + 26 * len(results),
        title="How many times better, medians of %d rounds (red: target)"
        % environment["rounds"],
        count=len(results),
        names=", ".join('"%s" %d' % (r["name"], i)
                        for i, r in enumerate(results)),
        labels=chart_labels(results),
        file_rows=chart_rows(results, "file"),
        qemu_rows=chart_rows(results, "qemu"),
        file_plot=PLOT.format(peer="file", left="0", colour="#4477aa"),
        qemu_plot=PLOT.format(peer="qemu", left="0.5", colour="#228833"),
        **KEYS)
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def chart_labels(results):
    """What has a limit of its own, and no raw file to be compared with."""
    return "\n".join(
        'set label "%s %s%s" at graph 0.02, first %d noenhanced'
        % (rate_to_text(result["medians"]["ours"]), result["unit"],
           limit_to_text(result), i)
        for i, result in enumerate(results) if "limit" in result)


def chart_rows(results, peer):
    rows = []
    for i, result in enumerate(results):
        ratio = result["ratios"].get(peer)
        if ratio is None:
            rows.append("%d NaN NaN NaN NaN" % i)
            continue
        target = "NaN" if ratio["target"] is None else "%g" % ratio["target"]
        rows.append("%d %g %g %g %s" % (i, ratio["median"], ratio["min"],
                                        ratio["max"], target))
    return "\n".join(rows)
