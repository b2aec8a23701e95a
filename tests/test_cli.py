"""The command line: help that answers at once, one clear message per mistake, JSON where a machine reads."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from fna import cli, progress
from fna.cli import tables
from fna.cli.catalogue import CATALOGUE
from fna.cli.words import UNDOTTED
from fna.config import Config
from fna.errors import FnaError
from fna.runs import opening

COMMANDS = ["run", "demo", "data", "plan", *cli.STAGES, "controls", "predict", "export", "push", "clean"]
COMMANDS += ["latency", "front", "study", "list", "count", "remap"]


def fails(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; return its message."""
    assert cli.main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fna: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def answer(command: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command with --json; return what it printed."""
    assert cli.main([*command.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- help -------------------------------------------------------------------------------------------------------------


def test_the_table_of_commands_is_complete() -> None:
    commands = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback}
    assert commands == set(COMMANDS)


@pytest.mark.parametrize("argv", [[], ["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_shows_an_example(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    example = out.partition("Example:\n")[2].strip()
    assert example.startswith(f"fna {argv[0]} " if argv[1:] else "fna run ")
    assert "\x1b" not in out
    assert out.isprintable() or set(filter(lambda c: not c.isprintable(), out)) == {"\n"}


@pytest.mark.parametrize("command", ["--help", "run --help", "plan --help", "count --help"])
def test_help_answers_at_once(command: str) -> None:
    code = f"""
import sys
from fna.cli import main
assert main({command.split()!r}) == 0
slow = {{"torch", "torchvision", "timm", "numpy", "matplotlib", "rich", "fna.config"}} & sys.modules.keys()
assert not slow, slow
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert seconds < 0.5 * (os.getloadavg()[0] // (os.cpu_count() or 1) + 1)  # neighbours slow each other down


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.2.3")
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "fna 1.2.3\n"


# --- settings as options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "rest", "settings"),
    [
        (["run", "--a.b", "1", "r.yaml", "--run", "d"], ["run", "r.yaml", "--run", "d"], ["a.b=1"]),
        (["--a.b=1", "run", "--a.b.c", "x=y"], ["run"], ["a.b=1", "a.b.c=x=y"]),
        (["run", "--search.lr", "-1", "--data.root="], ["run"], ["search.lr=-1", "data.root="]),
        (["run", "--baseline", "false", "./r.yaml"], ["run", "./r.yaml"], ["baseline=false"]),
        (["run", "--data.root=--odd"], ["run"], ["data.root=--odd"]),
    ],
)
def test_settings_stand_anywhere(argv: list[str], rest: list[str], settings: list[str]) -> None:
    assert cli.split_settings(argv) == (rest, settings)


def test_undotted_settings_are_known() -> None:
    sections = {name for name, field in Config.model_fields.items() if hasattr(field.annotation, "model_fields")}
    assert set(UNDOTTED) == set(Config.model_fields) - sections


@pytest.mark.parametrize("argv", [["run", "--a.b"], ["run", "--a.b", "--run", "x"]])
def test_a_setting_needs_a_value(argv: list[str]) -> None:
    with pytest.raises(FnaError, match=r"--a\.b has no value"):
        cli.split_settings(argv)


def test_the_demo_is_a_valid_run() -> None:
    from fna.config import load_config

    assert load_config(None, cli.DEMO).data.format == "synthetic"


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("cuont", "Did you mean 'count'"),
        ("run", "'RECIPE'"),
        ("run recipe.yaml", "'--run'"),
        ("run recipe.yaml --rnu d", "--run"),
        ("run recipe.yaml --run d --search.epohcs 5", "did you mean 'epochs'?"),
        ("run recipe.yaml --run d --serach.epochs 5", "did you mean 'search'?"),
        ("run recipe.yaml --run d --search.epochs five", "'search.epochs' is 'five'; expected a whole number"),
        ("run recipe.yaml --run d --search.epochs", "--search.epochs has no value"),
        ("run absent.yaml --run d", "cannot read the recipe absent.yaml: No such file"),
        ("run . --run d", ". is a folder; expected a recipe"),
        ("demo --search.alpha.lr 0", "'search.alpha.lr' is 0; expected greater than 0"),
        ("list optimisers", "did you mean 'optimizers'?"),
        ("list settings retina", "did you mean 'retinanet'?"),
        ("list models ssdlite", "fna list settings ssdlite"),
        ("list --search.epochs 5", "fna list takes no setting '--search.epochs'; type: fna list --help"),
        ("count mobilnet_v2", "did you mean 'mobilenet_v2'?"),
        ("count mobilenet_v2 --size 1024", "expected HEIGHTxWIDTH"),
        ("count mobilenet_v2 --size 0x5", "expected HEIGHTxWIDTH"),
        ("count mobilenet_v2 --classes 0", "--classes"),
        ("count mobilenet_v2 --classes many", "--classes"),
        ("count mobilenet_v2 --model deeplab", "'deeplabv3'"),
        ("count mobilenet_v2 --model none --output-stride 5", "output stride 5"),
        ("count recipe.yaml", "expected [[in, out]"),
    ],
)
def test_one_message_for_a_mistake(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("seed: {name: mobilenet_v2}")
    assert message in fails(command, capsys)
    assert not Path("d").exists()
    assert not Path("runs").exists()


@pytest.mark.parametrize("words", [["search"], ["report"], ["front", "--pick", "1x"]], ids=" ".join)
def test_commands_to_paste_quote_a_folder_with_spaces(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my run").mkdir()
    assert cli.main([words[0], "my run", *words[1:]]) == 2
    command = re.search(r": (fna .*)", capsys.readouterr().err.removeprefix("fna: error"))
    assert command is not None
    assert "my run" in shlex.split(command[1])


def test_an_option_without_value_is_answered_with_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "(type: fna run --help)" in fails("run x.yaml --run", capsys)
    assert "(type: fna --help)" in fails("--nothing", capsys)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Any]:
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(CATALOGUE, "seeds", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["list", "seeds"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, typer.Abort])
@pytest.mark.parametrize(("words", "goes_on"), [(["list", "seeds"], False), (["search", "run"], True)])
def test_ctrl_c_says_how_to_go_on(
    words: list[str],
    goes_on: bool,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: Any) -> list[Any]:
        raise error

    monkeypatch.setitem(CATALOGUE, "seeds", interrupted)
    monkeypatch.setattr(opening, "settle_config", interrupted)
    assert cli.main(words) == 130
    said = capsys.readouterr().err
    assert said.startswith("fna: interrupted")
    assert ("the same command goes on" in said) == goes_on


def test_other_ranks_keep_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["list", "optimizers"]) == 0
    assert cli.main(["run"]) == 2
    progress.say("words")
    assert capsys.readouterr() == ("", "")
    assert cli.main(["count", "nothing"]) == 2
    assert "(rank 1)" in capsys.readouterr().err, "an error may be this rank's own"


def test_module_and_exit_code() -> None:
    done = subprocess.run([sys.executable, "-m", "fna", "list", "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fna: error: unknown list 'nothing'")


# --- list and count ---------------------------------------------------------------------------------------------------


def test_list_shows_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer("list", capsys)
    assert list(rows) == list(CATALOGUE)
    names = {kind: {row["name"] for row in table} for kind, table in rows.items()}
    assert {"mobilenet_v2", "efficientnet_lite0"} <= names["seeds"]
    assert "camvid" in names["formats"]
    assert {"last", "first", "centre", "preserve", "zero"} <= names["strategies"]
    assert names["optimizers"] == {"sgd", "rmsprop", "adam", "adamw"}
    assert {"full", "two_path"} <= names["estimators"]
    assert "search.alpha.lr" in names["settings"]


def test_the_settings_of_a_model_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in answer("list settings retinanet", capsys)["settings"]}
    assert {"task.anchor_scale", "evaluate.nms", "search.budget"} <= rows.keys()
    assert not {"task.rates", "data.rotation"} & rows.keys()
    owners = {row["name"]: row["of"] for row in answer("list settings", capsys)["settings"]}
    wanted = {"task.anchor_scale": "retinanet", "evaluate.nms": "detection", "search.budget": "all"}
    assert {key: owners[key] for key in wanted} == wanted


def test_list_for_people_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "settings"]) == 0
    out, err = capsys.readouterr()
    assert "search.lambda" in out
    assert "[240, 320]" in out
    assert "\x1b" not in out
    assert err == ""


# --- what a run shows -------------------------------------------------------------------------------------------------

METRICS: dict[str, Any] = {
    "split": "val",
    "rows": {
        "control": {
            **{"title": "[control]", "arch": "seed", "init": "super", "params": 2.5e6, "madds": 2.6e9},
            **{"miou": 0.6, "minutes": 5.0, "head_width": 1.0, "scale": 1.0},
        },
        "adapted": {
            **{"title": "FNA++ network", "arch": "derived", "init": "super", "params": 2.4e6, "madds": 2.5e9},
            **{"miou": 0.612, "minutes": 6.0, "head_width": 1.0, "scale": 1.0},
        },
        "baseline": {
            **{"title": "fine-tuned seed", "arch": "seed", "init": "seed", "params": 2.5e6, "madds": 2.6e9},
            **{"miou": 0.587, "minutes": 5.5, "head_width": 1.0, "scale": 1.0},
        },
    },
    "metric": "miou",
    "titles": {"miou": "mIoU"},
    "search_minutes": 12.0,
    "warnings": ["all skip"],
}


def test_results_compare_the_seed_with_the_fna_network() -> None:
    text = io.StringIO()
    Console(file=text, width=100).print(tables.results_table(METRICS))
    lines = text.getvalue().splitlines()
    header, _, seed, fna, control = (" ".join(line.split()) for line in lines if line.strip())
    assert header == "network params MAdds val mIoU minutes"
    assert seed == "fine-tuned seed 2.500 M 2.600 G 58.70 % 5.5"
    assert fna == "FNA++ network 2.400 M 2.500 G 61.20 % 12.0 + 6.0"
    assert control.startswith("[control] ")
    assert control.endswith(" 12.0 + 5.0")


def test_what_a_network_is_like_has_columns_where_they_are_not_the_seeds() -> None:
    rows = {**METRICS["rows"], "adapted": {**METRICS["rows"]["adapted"], "scale": 1.25, "output_stride": 8}}
    laid = tables.results_table({**METRICS, "split": "test", "rows": rows})
    assert [column.header for column in laid.columns] == [
        *("network", "input scale", "output stride", "params", "MAdds", "test mIoU", "minutes")
    ]
    assert list(laid.columns[1].cells) == ["1 x", "1.25 x", "1 x"]


def test_costs_are_printed_in_their_unit(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_result({"cost": 2_400_000, "unit": "params", "argmax_cost": 3_100_000, "madds": 7_000})
    assert capsys.readouterr().out == "cost: 2.40 Mparams\nunit: params\nargmax_cost: 3.10 Mparams\nmadds: 7,000\n"


def test_a_run_ends_with_table_and_report(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_result({**METRICS, "report": "runs/x/report.html"})
    out, err = capsys.readouterr()
    assert "FNA++ network" in out
    assert out.endswith("report: runs/x/report.html\n")
    assert err == "warning: all skip\n"


# --- progress ---------------------------------------------------------------------------------------------------------


def test_bars_are_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar(3, "search") as outer, progress.bar(3, "evaluate", start=1) as inner:
        outer.advance(loss=0.5)
        inner.advance(2)
    progress.say("epoch 1")
    with progress.quiet():
        progress.say("not this")
    assert capsys.readouterr() == ("", "epoch 1\n")


def test_without_a_terminal_a_line_a_minute_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(10**9, 2 * 10**9, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.bar(40, "score", start=20) as shown:
        shown.began = 1e9
        for _ in range(20):
            shown.advance(loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 10
    assert re.fullmatch(r"score: 2\d of 40, loss 0.5, ETA \d+\.\d min", lines[0])
    assert shown.done == 40


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_show_numbers_and_eta_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.bar(4, "search [k3]", start=2) as outer:
        outer.advance(loss=0.25)
        with progress.bar(2, "evaluate") as inner:
            inner.advance()
            progress.say("a line")
        outer.advance(1)
    shown = terminal.getvalue()
    for text in ("search [k3]", "4/4", "ETA", "loss 0.25", "evaluate", "a line"):
        assert text in shown
    with progress.quiet(), progress.bar(4, "hidden"):
        pass
    assert "hidden" not in terminal.getvalue()
