"""The hand-out, line by line → the place of a page where its evidence stands; it gives no marks."""

import re
from dataclasses import dataclass

from cubslib.pages.notebook import Notebook

# (task, what is asked, what the place says: a pattern, sought in cells in their order)
LINES = (
    ("T1", "An architecture of one's own", r"models\.CustomCNN"),
    ("T1", "Data set and loader that read images batch by batch", r"datasets\.TinyImageNet|"
     r"batch by batch|memory-mapped"),
    ("T1", "Data augmentation", r"views\.augmented\("),
    ("T1", "Early stopping", r"early stopping"),
    ("T1", "A learning-rate schedule", r"learning rate, small|one-cycle|scheduler"),
    ("T1", "Model checkpoints", r"checkpoint"),
    ("T1", "Cross-entropy loss", r"CrossEntropyLoss\("),
    ("T1", "Curves of the training", r"views\.curves\("),
    ("T1", "Result on test, read once; more than 40 % top-1", r"record_classifier\("),
    ("T2", "ResNet-18, random weights", r"models\.resnet18\("),
    ("T2", "Same data and training as T1, and the comparison", r"against\(|same training"),
    ("T2", "Result on test", r"record_classifier\("),
    ("T3", "CUBS block 1, attention over channels", r"class CubsBlock1|CubsBlock1"),
    ("T3", "CUBS block 2, attention over places", r"class CubsBlock2|CubsBlock2"),
    ("T3", "Three fashions of joining them", r"serial_12|fashion"),
    ("T3", "The fashion chosen on val", r"prose\.fashions|best_fit\(|chosen on val"),
    ("T3", "At par with T2: a drop of 2 points at most", r"against\("),
    ("T4", "A classifier of the first half of the classes", r"Stage 1|as a classifier"),
    ("T4", "A function for Recall@K", r"recall_at_k"),
    ("T4", "Recall@1, 2, 4, 8 of unseen classes, before and after", r"record_retrieval\("),
    ("T4", "An embedding in place of the classification layer", r"models\.embed\("),
    ("T4", "The loss, and its hard positives and negatives", r"MultiSimilarityLoss"),
    ("T4", "The whole network trained by it", r"metric_loss, scoring|class_balanced\)"),
    ("T4", "Retrieved images looked at", r"retrieval\.neighbours\("),
    ("T4", "Where it fails", r"## Where it fails"),
)  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """A line of the hand-out, and where it is shown: the run's place and its heading, or ""."""

    task: str
    asked: str
    place: str
    under: str


def evidence(pages: dict[str, Notebook]) -> list[Evidence]:
    """Find each line's place in the page of its task; `pages` holds those that have a notebook."""
    return [Evidence(task, asked, *_place(pages.get(task), pattern))
            for task, asked, pattern in LINES]  # fmt: skip


def _place(page: Notebook | None, pattern: str) -> tuple[str, str]:
    """Return the first block that says it, and the heading that it stands under."""
    under = page.title if page else ""
    for block in page.blocks if page else ():
        text = block.said if block.kind == "text" else ""
        heads = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE) or [under]
        if re.search(pattern, block.said):
            return block.place, re.sub(r"[*_`$]", "", heads[0])
        under = heads[-1]
    return "", ""
