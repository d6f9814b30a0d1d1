# %% [markdown]
# # A campaign from a notebook
#
# Each `# %%` begins a cell: open this file in VS Code or JupyterLab (with Jupytext), or run it as a script with
# `python examples/notebook.py`. Set FRONTIER_EXAMPLE_ENGINE=fake to try it out in seconds without a model's answers.

# %%
import os
from pathlib import Path

from orchestrator import Campaign

ENGINE = os.environ.get("FRONTIER_EXAMPLE_ENGINE", "vllm")
FOLDER = Path(os.environ.get("FRONTIER_EXAMPLE_FOLDER", "notebook-campaign"))

# %% [markdown]
# A spec is the same data as a campaign file. A wrong value is told in one line (`SpecError`).

# %%
campaign = Campaign.from_spec(
    {
        "name": "from-a-notebook",
        "models": [{"source": "smollm2-135m", "dtype": "bfloat16", "kv_cache_gib": 2}],
        "methods": ["dense", {"quest": {"token_budget": [64, 256]}}],
        "tasks": [{"ruler_niah": {"num_queries": 1, "needle": "numbers", "haystack": "sentences", "reply": "primed"}}],
        "lengths": [512, 1024],
        "samples": 8,
        "max_output_tokens": 24,
    },
    store=FOLDER / "campaign.sqlite",
    engine=ENGINE,
)
campaign  # noqa: B018

# %% [markdown]
# Run it. The cell shows the dashboard; interrupting the kernel drains, and running the cell again goes on.

# %%
result = campaign.run(pool="inline")
print("exit code", result.exit_code)

# %% [markdown]
# Results are pandas frames: scores with their intervals, and each budget against dense on the same prompts.

# %%
scores = campaign.scores()
print(scores[["method", "budget", "length_tokens", "num_scored", "mean", "low", "high"]].to_string(index=False))

# %%
tests = campaign.against_dense(margin=0.05)
print(tests[["method", "budget", "length_tokens", "difference", "p_worse_holm"]].to_string(index=False))

# %% [markdown]
# Every sample is there too, with its measured density.

# %%
outcomes = campaign.outcomes()
print(outcomes.groupby("verdict", observed=True).size())

# %% [markdown]
# The report is one HTML page with its figures and tables as files.

# %%
page = campaign.report(FOLDER / "report")
print(page)
