"""The history of a run: a row an epoch, as CSV and back; which row is reported."""

import csv
import io


def best_row(history: list[dict]) -> dict:
    """Return the row, of one fit's, with the best val score; the last where nothing was scored."""
    key = next((key for key in history[-1] if key.startswith("val_")), None)
    return history[-1] if key is None else max(history, key=lambda row: row[key])


def best_fit(history: list[dict]) -> str:
    """Return the fit whose best row has the best `val_top1`; the first of equals."""
    by_fit = {}
    for row in history:
        by_fit.setdefault(row["fit"], []).append(row)
    return max(by_fit, key=lambda fit: best_row(by_fit[fit])["val_top1"])


def to_csv(rows: list[dict]) -> str:
    """Return `rows` as CSV; a column that a row lacks is left blank in it."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def from_csv(text: str) -> list[dict]:
    """Return the rows of `to_csv`: numbers as numbers, blanks left out.

    Raises:
        ValueError: a cell that should be a number is none, a row has no fit or epoch, or the text
            was cut.
    """

    def parsed(name: str, value: str):
        return value if name == "fit" else int(value) if value.isdigit() else float(value)

    try:
        rows = list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise ValueError(f"no table: {error}") from error
    whole = all(None not in row and None not in row.values() for row in rows)
    if not whole or not all(row.get("fit") and row.get("epoch") for row in rows):
        raise ValueError("a row has more or fewer cells than the first line, or no fit or epoch")
    if text and not text.endswith("\n"):
        raise ValueError("the last line was cut")
    return [{name: parsed(name, cell) for name, cell in row.items() if cell} for row in rows]
