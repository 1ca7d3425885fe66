"""Curves of pictures into files, without any server:

    python -m labledger.extract IMAGE... --out DIR [--method standard|legacy|llm] [--calibration FILE] [--page N] [--chart N]

For each image DIR gets `<stem>.json` (axes, curves, confidence, editable calibration), `<stem>.csv` and `<stem>.overlay.png`; for
each chart of a PDF `<stem>-p<page>-<chart>.json` and so on.
The exit code is 1 when any image failed, 2 when the command was wrong. A result of low confidence is no failure: its file
says `"accepted": false`.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from domain.errors import Refused
from labledger.calibration_file import parameters_in
from labledger.curves import given_of


def adviser_of(environment: dict[str, str]) -> Any:
    from adapters.curves.llm import Adviser

    url = environment.get("LABLEDGER_CURVES_LLM_URL", "")
    key = environment.get("LABLEDGER_CURVES_LLM_KEY", "")
    return Adviser(url, environment.get("LABLEDGER_CURVES_LLM_MODEL", "gpt-4o"), key) if url or key else None


def extract_file(path: Path, out: Path, options: Any) -> list[tuple[str, dict[str, Any]]]:
    """Extract the charts of one file and write three files for each; name and prediction of each. Raises Refused or OSError."""
    import cv2

    from adapters.curves.document import part_names, read
    from adapters.curves.overlay import overlay
    from adapters.curves.table import csv_text

    written: list[tuple[str, dict[str, Any]]] = []
    results = read(path.read_bytes(), options)
    for name, result in zip(part_names(results, path.stem), results, strict=True):
        prediction = result.prediction() | {"image": path.name, "method": options.method}
        (out / f"{name}.json").write_text(json.dumps(prediction, ensure_ascii=False, separators=(",", ":")) + "\n")
        (out / f"{name}.csv").write_text(csv_text(result))
        if not cv2.imwrite(str(out / f"{name}.overlay.png"), overlay(result)[:, :, ::-1]):
            raise OSError(f"cannot write the overlay into {out}")
        written.append((name, prediction))
    return written


def extract_files(
    images: Sequence[Path],
    out: Path,
    *,
    method: str = "standard",
    calibration: Path | None = None,
    page: int | None = None,
    chart: int | None = None,
) -> int:
    """Extract all images into `out`, one line a chart on stdout; how many images failed."""
    from adapters.curves.extract import Method, Options

    told = parameters_in(calibration.read_text()) if calibration else {}
    # A result says where its chart was; who asks for another one means that.
    page, chart = page or told.get("page"), chart or told.get("chart")
    options = Options(cast("Method", method), given_of(told), adviser_of(dict(os.environ)), page, chart)
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for image in images:
        try:
            written = extract_file(image, out, options)
        except (Refused, OSError) as error:
            failed += 1
            print(f"{image}: {error}", file=sys.stderr)
            continue
        except Exception as error:  # one picture that trips us must not cost the others of a batch
            failed += 1
            print(f"{image}: could not be read ({type(error).__name__}: {error})", file=sys.stderr)
            continue
        for name, found in written:
            where = f"{image} {name.removeprefix(image.stem + '-')}" if name != image.stem else f"{image}"
            told = [
                f"{(count := len(found['curves']))} {'curve' if count == 1 else 'curves'}",
                f"confidence {found['confidence']:.2f}",
                f"{found['seconds']:.2f} s",
                *found["notes"],
            ]
            print(f"{where}: {', '.join(told[:3])}{''.join('; ' + note for note in told[3:])}")
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="labledger extract", description="Turn pictures of plots into data.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG, JPEG, ... or PDF")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--method", choices=("standard", "legacy", "llm"), default="standard")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="axes by two points each, as a result's `calibration`"
    )
    parser.add_argument("--page", type=int, metavar="N", help="page of a PDF, counted from 1 [default: all]")
    parser.add_argument("--chart", type=int, metavar="N", help="chart on that page, in reading order [default: all]")
    arguments = parser.parse_args(argv)
    try:
        return (
            1
            if extract_files(
                arguments.images,
                arguments.out,
                method=arguments.method,
                calibration=arguments.calibration,
                page=arguments.page,
                chart=arguments.chart,
            )
            else 0
        )
    except (Refused, OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
