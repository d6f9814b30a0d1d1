"""A task of lm-evaluation-harness with local data: sums, one number a document, two examples before each question."""

from __future__ import annotations

import json
from pathlib import Path

NAME = "frontier_sums"
CONFIG = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    train: {folder}/train.jsonl
    test: {folder}/test.jsonl
output_type: generate_until
training_split: train
test_split: test
fewshot_split: train
num_fewshot: 2
doc_to_text: "Question: what is {{{{a}}}} plus {{{{b}}}}?\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n", "Question"]
  max_gen_toks: 12
  do_sample: false
filter_list:
  - name: first_number
    filter:
      - {{function: regex, regex_pattern: "(-?[0-9]+)"}}
      - {{function: take_first}}
  - name: whole
    filter:
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
metadata:
  version: 1.0
"""


def write_task(folder: Path, num_documents: int = 20) -> Path:
    """The task's files, for `include_path`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"a": i % 7 + 1, "b": (3 * i) % 9 + 1} for i in range(num_documents + 5)]
    lines = [json.dumps({**row, "answer": str(row["a"] + row["b"])}) for row in rows]
    (folder / "test.jsonl").write_text("\n".join(lines[:num_documents]) + "\n", "utf-8")
    (folder / "train.jsonl").write_text("\n".join(lines[num_documents:]) + "\n", "utf-8")
    (folder / f"{NAME}.yaml").write_text(CONFIG.format(name=NAME, folder=folder), "utf-8")
    return folder
