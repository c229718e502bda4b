"""What a study says: the answer, one figure, tables, and the pictures of every family."""

from __future__ import annotations

from erclip.pages.sheet import Sheet, markdown, markdown_cell
from erclip.study.answer import answer
from erclip.study.findings import Findings
from erclip.study.plots import Pictures
from erclip.study.rows import Results


def study_sheet(results: Results, findings: Findings, pictures: Pictures) -> Sheet:
    """The whole study, as far as it has got."""
    study = results.study
    count, total = len(results.rows()), len(study.cells())
    missing = [f"{count} of {total} runs are there."] if count < total else []
    return Sheet(
        study.description or study.name,
        [*missing, *answer(findings)],
        list(pictures.first.values()),
        list(findings.tables().values()),
        list(pictures.rest.values()),
    )


def study_document(sheet: Sheet, pictures: Pictures) -> str:
    """The page as GitHub's Markdown: the pictures are files beside it."""
    first, rest = (
        "".join(f"![{name}]({name})\n" for name in part) for part in (pictures.first, pictures.rest)
    )
    body = markdown(Sheet("", [], [], sheet.tables))
    said = "".join(f"- {markdown_cell(sentence)}\n" for sentence in sheet.sentences)
    return "\n".join(
        part
        for part in (f"# {markdown_cell(sheet.title)}\n", said, first, f"{body}\n", rest)
        if part
    )
