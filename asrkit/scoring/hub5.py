"""The official error rates of Hub5 and RT'03, from stm, ctm and GLM files."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lhotse.cut import Cut

from asrkit.console import log
from asrkit.data.splits import subset_of
from asrkit.errors import UserError
from asrkit.files import utf8_lines, write_text
from asrkit.scoring.segments import segment_errors, speaker_errors
from asrkit.scoring.wer import Errors, summed

DEBIAN = Path("/usr/lib/sctk/bin")
"""Where Debian's sctk keeps the programs."""
REPORTS = {".sys": "percent.txt", ".raw": "counts.txt", ".dtl": "details.txt"}
"""Suffixes of NIST's reports, and their names in a folder of ours."""
_ROW = re.compile(r"\|\s*(\S+)\s*\|\s*(\d+)\s+(\d+)\s*\|\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s*\|")


def hubscr_folder() -> Path | None:
    """Where ``hubscr.pl`` is; None if it is not installed."""
    program = shutil.which("hubscr.pl") or shutil.which("hubscr.pl", path=str(DEBIAN))
    return Path(program).parent if program else None


def ctm_lines(cuts: Iterable[Cut]) -> list[str]:
    """Sorted lines ``recording channel start duration word`` of cuts with decoded hypotheses.

    There are no confidences, as sclite fails on those of a recognizer without errors.

    Raises:
        UserError: a cut has no hypotheses.
    """
    rows: list[tuple[str, str, float, float, str]] = []
    for cut in cuts:
        if "hypotheses" not in (cut.custom or {}):
            raise UserError(f"{cut.id} has no hypotheses; decode again")
        words = cut.hypotheses[0]["words"] if cut.hypotheses else []
        channel = "B" if cut.channel == 1 else "A"
        rows += [
            (cut.recording_id, channel, cut.start + w["time"], max(0.01, w["end"] - w["time"]), w["word"])
            for w in words
        ]
    return [f"{r} {c} {start:.2f} {length:.2f} {word}" for r, c, start, length, word in sorted(rows)]


def official_errors(stms: Sequence[Path], glm: Path, cuts: Sequence[Cut], out_dir: Path) -> dict[str, Errors]:
    """Word errors of each conversation side, as NIST counts them.

    :mod:`asrkit.scoring.segments` counts them. If NIST's ``hubscr.pl`` is installed, its counts are returned, and its
    reports are written to a folder.

    Args:
        stms: the references.
        glm: NIST's rules for equal spellings.
        cuts: the decoded utterances with their hypotheses.
        out_dir: for the reports.

    Raises:
        UserError: a file cannot be read, or NIST's programs refuse it.
    """
    recordings = {cut.recording_id for cut in cuts}
    lines = [line for path in stms for line in utf8_lines(path) if line.strip()]
    comments = [line for line in lines if line.startswith(";;")]
    segments = [line for line in lines if not line.startswith(";;")]
    if undecoded := sorted({line.split()[0] for line in segments} - recordings):
        examples = f"{len(undecoded)} recordings, such as {undecoded[0]}"
        log(f"note: {examples}, of {stms[0]} were not decoded and do not count")
    stm, ctm = _accepted(comments, segments, recordings), ctm_lines(cuts)
    programs = hubscr_folder()
    if programs is None:
        return speaker_errors(segment_errors(stm, ctm, glm))
    theirs = hubscr_errors(programs, stm, ctm, glm, out_dir)
    ours = speaker_errors(segment_errors(stm, ctm, glm))
    if theirs != ours:
        totals = [sum(counts.values(), Errors()).total for counts in (theirs, ours)]
        log(f"note: hubscr.pl counts {totals[0]} errors, asrkit {totals[1]}; those of hubscr.pl are shown")
    return theirs


def hubscr_errors(
    programs: Path, stm: Sequence[str], ctm: Sequence[str], glm: Path, out_dir: Path
) -> dict[str, Errors]:
    """Each speaker's errors as counted by ``hubscr.pl`` from NIST's programs.

    Raises:
        UserError: it refuses the lines.
    """
    with tempfile.TemporaryDirectory(prefix="asrkit-") as name:
        folder = Path(name)
        write_text(folder / "ref.stm", "".join(f"{line}\n" for line in stm))
        write_text(folder / "hyp.ctm", "".join(f"{line}\n" for line in ctm))
        shutil.copyfile(glm, folder / "rules.glm")
        command = [str(programs / "hubscr.pl"), "-p", str(programs), "-V", "-l", "english", "-h", "hub5"]
        command += ["-g", "rules.glm", "-r", "ref.stm", "hyp.ctm"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        reports = {suffix: folder / f"hyp.ctm.filt{suffix}" for suffix in REPORTS}
        if result.returncode or not reports[".raw"].is_file():
            errors = [line for line in (result.stderr + result.stdout).splitlines() if "rror" in line]
            raise UserError(
                f"hubscr.pl refused the reference with {glm}: {(errors or ['it printed no reason'])[0].strip()}"
            )
        for suffix, path in reports.items():
            if path.is_file():
                write_text(out_dir / REPORTS[suffix], path.read_text(errors="replace"))
        return _counts(reports[".raw"].read_text(errors="replace"))


def by_subset(sides: Mapping[str, Errors], cuts: Iterable[Cut]) -> dict[str, Errors]:
    """The errors of each subset's conversation sides; the key ``""`` holds their total."""
    subsets = {cut.recording_id.lower(): subset_of(cut) for cut in cuts}
    named = ((subsets.get(side.rpartition("_")[0], ""), errors) for side, errors in sorted(sides.items()))
    return {"": sum(sides.values(), Errors())} | summed((subset, errors) for subset, errors in named if subset)


def _accepted(comments: Sequence[str], segments: Sequence[str], recordings: set[str]) -> list[str]:
    """The lines of decoded recordings as hubscr.pl accepts them: sides as letters and as speakers, no asides, no gaps,
    labels defined."""
    header = [line.rstrip() for line in dict.fromkeys(comments)]
    labels: set[str] = set()
    lines: list[str] = []
    for line in segments:
        words = line.split(maxsplit=5)
        if len(words) < 5 or words[0] not in recordings or "inter_segment_gap" in line:
            continue
        words[1] = {"1": "A", "2": "B"}.get(words[1], words[1])
        words[2] = f"{words[0]}_{words[1]}"
        text = re.sub(r"(?i)</?[be]_aside>", "", " ".join(words)).replace("((", "(")
        if match := re.match(r"<([^<>]*)>", words[5] if len(words) > 5 else ""):
            labels |= {part.strip().upper() for part in match[1].split(",")}
        lines.append(text.rstrip())
    known = {match[1].upper() for line in header if (match := re.match(r';;\s*LABEL\s+"([^"]*)"', line))}
    header += [f';; LABEL "{label}" "{label}" "{label}"' for label in sorted(labels - known) if label]
    return header + lines  # which hubscr.pl and our scorer sort


def _counts(report: str) -> dict[str, Errors]:
    counts = {}
    for name, _, words, _, substitutions, deletions, insertions, _, _ in _ROW.findall(report):
        if name not in ("Sum", "Mean", "S.D.", "Median"):
            counts[name.lower()] = Errors(int(words), int(substitutions), int(deletions), int(insertions))
    return counts
