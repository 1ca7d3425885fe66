"""Curves of pictures into files, without any server:

    python -m labledger.extract IMAGE... --out DIR [--method standard|legacy|llm] [--calibration FILE] [--page N]

For each image DIR gets `<stem>.json` (axes, curves, confidence, editable calibration), `<stem>.csv` and `<stem>.overlay.png`.
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


def adviser_of(environment: dict[str, str]) -> Any:
    from adapters.curves.llm import Adviser

    url = environment.get("LABLEDGER_CURVES_LLM_URL", "")
    key = environment.get("LABLEDGER_CURVES_LLM_KEY", "")
    return Adviser(url, environment.get("LABLEDGER_CURVES_LLM_MODEL", "gpt-4o"), key) if url or key else None


def extract_file(path: Path, out: Path, options: Any) -> dict[str, Any]:
    """Extract one image and write its three files; the prediction is returned. Raises Refused or OSError."""
    import cv2

    from adapters.curves.extract import extract
    from adapters.curves.overlay import overlay
    from adapters.curves.table import csv_text

    result = extract(path.read_bytes(), options)
    prediction = result.prediction() | {"image": path.name, "method": options.method}
    (out / f"{path.stem}.json").write_text(json.dumps(prediction, ensure_ascii=False, separators=(",", ":")) + "\n")
    (out / f"{path.stem}.csv").write_text(csv_text(result))
    if not cv2.imwrite(str(out / f"{path.stem}.overlay.png"), overlay(result)[:, :, ::-1]):
        raise OSError(f"cannot write the overlay into {out}")
    return prediction


def extract_files(
    images: Sequence[Path], out: Path, *, method: str = "standard", calibration: Path | None = None, page: int = 0
) -> int:
    """Extract all images into `out`, one line a picture on stdout; how many failed."""
    from adapters.curves.extract import Given, Method, Options

    given = Given.from_json(json.loads(calibration.read_text())) if calibration else None
    options = Options(cast("Method", method), given, adviser_of(dict(os.environ)), page)
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for image in images:
        try:
            found = extract_file(image, out, options)
        except (Refused, OSError) as error:
            failed += 1
            print(f"{image}: {error}", file=sys.stderr)
            continue
        except Exception as error:  # one picture that trips us must not cost the others of a batch
            failed += 1
            print(f"{image}: could not be read ({type(error).__name__}: {error})", file=sys.stderr)
            continue
        notes = "; ".join(found["notes"])
        print(
            f"{image}: {len(found['curves'])} curves, confidence {found['confidence']:.2f}, {found['seconds']:.2f} s{'; ' + notes if notes else ''}"
        )
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
    parser.add_argument("--page", type=int, default=1, help="page of a PDF, counted from 1")
    arguments = parser.parse_args(argv)
    try:
        return (
            1
            if extract_files(
                arguments.images,
                arguments.out,
                method=arguments.method,
                calibration=arguments.calibration,
                page=arguments.page - 1,
            )
            else 0
        )
    except (Refused, OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
