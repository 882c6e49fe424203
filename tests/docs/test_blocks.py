"""The blocks of code in the documentation: those for the shell and of Python run in order, or say what they need."""

import os

import pytest
import torch
from diffusers import DDPMScheduler
from doc_blocks import PAGES, ROOT, blocks, commands, ours, parsed

from latentdebias.config import CONFIG_DIR, load_config

RUN = [page for page in PAGES if page.name != "CONTRIBUTING.md"]
RUN = [page for page in RUN if any(each.needs is None and each.language in ("sh", "python") for each in blocks(page))]
names = {"ids": lambda page: str(page.relative_to(ROOT))}


@pytest.mark.parametrize("page", RUN, **names)
def test_the_blocks_of_a_page_run_in_order(page, workspace, run_tiny):
    known = {
        "model": lambda z, t, y=None: torch.zeros_like(z),
        "x0": torch.randn(2, 4, 8, 8),
        "labels": torch.tensor([0, 1]),
        "noise_scheduler": DDPMScheduler(),
    }
    for block in blocks(page):
        if block.title:
            (workspace / block.title).write_text(block.text)
        if block.needs is None and block.language == "python":
            exec(compile(block.text, str(page), "exec"), known)
        if block.needs is None and block.language == "sh":
            for words in commands(block.text):
                if words[0] == "cd":
                    os.chdir(words[1])
                else:
                    assert words[0] == "latentdebias", f"{page.name}: say above the block what {words} needs"
                    run_tiny(words[1], words[2:])


@pytest.mark.parametrize("page", PAGES, **names)
def test_commands_that_are_not_run_are_spelt_right(page):
    """Each is read by the command's own parser, and names keys and values that a shipped config can have."""
    for block in blocks(page):
        assert block.language, f"{page.name}: a block without a language begins {block.text[:60]!r}"
        if block.language != "sh" or block.needs is None:
            continue
        for name, arguments in filter(None, map(ours, commands(block.text))):
            given = parsed(name, arguments)
            if getattr(given, "overrides", None) is not None and (CONFIG_DIR / given.config).is_file():
                load_config(given.config, given.overrides)


def test_a_misspelt_command_would_be_found():
    with pytest.raises(SystemExit):
        parsed(*ours(["deepspeed", "--module", "latentdebias.cli.train", "--confg", "x.yaml"]))
