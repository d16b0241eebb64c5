"""Generated tables: they stand between their marks, header first, and every table of the docs can be read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import budget_table, eightbit_table, plan_table
from benchmarks.plan_table import write_between

ROOT = Path(__file__).parents[2]
RULE = re.compile(r"\|(:?-+:?\|)+")
MADE = (budget_table, eightbit_table, plan_table)


def tables(text: str) -> Iterator[list[str]]:
    """Yield each block of lines that begin with a bar, code blocks left out."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    for bar, lines in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        if bar:
            yield list(lines)


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) - 1


def faults(text: str) -> list[str]:
    """Return what a reader of Markdown would stumble over, a phrase for each table."""
    found = []
    for lines in tables(text):
        if len(lines) < 3 or not RULE.fullmatch(lines[1].replace(" ", "")):
            found.append(f"no header, rule and row: {lines[0][:60]}")
        elif len({cells(line) for line in lines}) > 1:
            found.append(f"rows of different lengths: {lines[0][:60]}")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.md")), ids=lambda path: path.stem)
def test_every_table_of_the_docs_has_its_header_first(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def test_a_header_below_its_rows_is_a_fault() -> None:
    assert faults("| 1 | 2 |\n| a | b |\n|---|---|\n")
    assert faults("| a | b |\n|---|---|\n")
    assert faults("| a | b |\n|---|---|\n| 1 |\n")
    assert not faults("| a | b |\n|---|---|\n| 1 | 2 |\n")


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.__name__.split(".")[-1])
def test_a_benchmark_puts_its_table_between_the_marks_of_the_docs(made: object, tmp_path: Path) -> None:
    begin, end, head = (getattr(made, name) for name in ("BEGIN", "END", "HEAD"))
    copy = tmp_path / "plans.md"
    copy.write_text((ROOT / "docs" / "plans.md").read_text(encoding="utf-8"), encoding="utf-8")
    old = copy.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].strip().splitlines()
    assert set(head) <= set(old), "the docs hold another table than the benchmark writes"
    row = "|" + " x |" * cells(head[0])
    write_between([*head, row], copy, begin, end)
    text = copy.read_text(encoding="utf-8")
    assert f"{begin}\n\n{head[0]}\n{head[1]}\n{row}\n\n{end}" in text
    assert faults(text) == []


def test_rows_of_other_bundles_and_precisions_stay_in_the_table(tmp_path: Path) -> None:
    head = [*eightbit_table.HEAD]
    path = tmp_path / "a.md"
    begin, end = eightbit_table.BEGIN, eightbit_table.END
    path.write_text(f"{begin}\n{end}\n")
    write_between([*head, "| a | int8 | 1 |", "| a | fp8 | 2 |", "| b | int8 | 3 |"], path, begin, end)
    rows = eightbit_table._merged(path, ["| a | int8 | 4 |", "| a | int8 | 5 |"])
    assert rows == ["| a | int8 | 4 |", "| a | int8 | 5 |", "| a | fp8 | 2 |", "| b | int8 | 3 |"]
    assert eightbit_table._merged(None, rows) == rows


def test_a_file_without_the_marks_is_left_as_it_was(tmp_path: Path) -> None:
    for text in ("no marks", "<begin> only", "<end> before <begin>"):
        (tmp_path / "a.md").write_text(text)
        with pytest.raises(ValueError, match="nothing was written"):
            write_between(["| a |"], tmp_path / "a.md", "<begin>", "<end>")
        assert (tmp_path / "a.md").read_text() == text
