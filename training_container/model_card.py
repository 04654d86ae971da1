"""README.md of a trained model, as Hugging Face lays a model card out: what it is, how to use it, where it comes from.

It holds no time and no duration: the same training writes the same bytes. Prompts, licence and source are text of
strangers; they stand in code spans and quoted strings only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from contracts.artifact import LEARNED_WORDS, LORA_WEIGHTS, WORD_IDS, WORD_ROWS, Artifact, BaseModelManifest

MODEL_CARD = "README.md"

# Identifiers of https://huggingface.co/docs/hub/repositories-licenses that models of this kind have.
HUB_LICENCES = frozenset(
    {
        "apache-2.0",
        "bigscience-openrail-m",
        "cc-by-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "creativeml-openrail-m",
        "mit",
        "openrail",
        "openrail++",
    }
)
_HUB_REPOSITORY = re.compile(r"(?:https?://huggingface\.co/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")
_JOINERS = "\u200c\u200d"  # not printable by themselves, but part of words and emoji
_TITLE_CHARACTERS = 80


class PictureCount(NamedTuple):
    instance: int
    prior: int  # of the class, given or drawn by the base model


def render_model_card(artifact: Artifact, base: BaseModelManifest, pictures: PictureCount) -> str:
    """`artifact` need not list its files yet."""
    sections = [
        _front_matter(artifact, base),
        _introduction(artifact, base, pictures),
        _usage(artifact, base),
        _licence(base),
        _prompts(artifact),
        _training(artifact, pictures),
        _lineage(artifact, base),
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _front_matter(artifact: Artifact, base: BaseModelManifest) -> Iterator[str]:
    licence = base.licence.strip().lower()
    repository = _hub_repository(base)
    yield "---"
    if licence in HUB_LICENCES:
        yield f"license: {licence}"
    else:
        yield "license: other"
        yield f"license_name: {yaml_text(base.licence.strip() or 'that of the base model')}"
    yield "library_name: diffusers"
    yield "pipeline_tag: text-to-image"
    if repository:
        yield f"base_model: {yaml_text(repository)}"
        yield f"base_model_relation: {'adapter' if artifact.method == 'lora' else 'finetune'}"
    yield "tags:"
    yield from ("- stable-diffusion", "- dreambooth")
    if artifact.method == "lora":
        yield "- lora"
    yield f"instance_prompt: {yaml_text(artifact.instance_prompt)}"
    yield "widget:"
    for path, prompt in _samples(artifact):
        yield f"- text: {yaml_text(prompt)}"
        yield "  output:"
        yield f"    url: {yaml_text(path)}"
    yield "---"


def _introduction(artifact: Artifact, base: BaseModelManifest, pictures: PictureCount) -> Iterator[str]:
    kind = "A LoRA for" if artifact.method == "lora" else "Fine-tuned from"
    yield f"# DreamBooth: {code_span(artifact.instance_prompt[:_TITLE_CHARACTERS])}"
    yield ""
    yield " ".join(f"![sample {number}]({path})" for number, (path, _) in enumerate(_samples(artifact)))
    yield ""
    yield (
        f"{kind} {code_span(base.id)}, trained by DreamBooth on {pictures.instance} photos "
        f"for pictures of {artifact.resolution} x {artifact.resolution} pixels."
    )


def _usage(artifact: Artifact, base: BaseModelManifest) -> Iterator[str]:
    defaults = base.generation_defaults
    arguments = {
        "height": artifact.resolution,
        "width": artifact.resolution,
        "num_inference_steps": defaults.num_inference_steps,
        "guidance_scale": defaults.guidance_scale,
    }
    given = "".join(f", {name}={value}" for name, value in arguments.items() if value is not None)
    model = (_hub_repository(base) or "directory of the base model") if artifact.method == "lora" else "."
    prompt = printable(artifact.instance_prompt)
    request = json.dumps({"subject": "SUBJECT", "prompt": prompt}, ensure_ascii=False)
    yield "## Use"
    yield ""
    yield "With diffusers, in this directory:"
    yield ""
    yield "```python"
    if artifact.method == "lora" and artifact.learned_words:
        yield "import safetensors.torch"
    yield "from diffusers import StableDiffusionPipeline"
    yield ""
    yield f"pipeline = StableDiffusionPipeline.from_pretrained({model!r})"
    if artifact.method == "lora":
        yield f"pipeline.load_lora_weights('.', weight_name={LORA_WEIGHTS!r})"
        if artifact.learned_words:
            yield f"words = safetensors.torch.load_file({LEARNED_WORDS!r})"
            yield (
                f"pipeline.text_encoder.get_input_embeddings().weight.data[words[{WORD_IDS!r}]] = words[{WORD_ROWS!r}]"
            )
    yield f"pipeline({prompt!r}{given}).images[0].save('picture.png')"
    yield "```"
    yield ""
    yield "With the API of Dreamdrop, SUBJECT being the name that its photos were dropped under:"
    yield ""
    yield "```sh"
    yield f"dreamdrop generate SUBJECT {shlex.quote(prompt)}"
    yield "```"
    yield ""
    yield f"or `POST /v1/generations` with {code_span(request)}."


def _licence(base: BaseModelManifest) -> Iterator[str]:
    yield "## Licence"
    yield ""
    if base.licence.strip():
        yield f"That of the base model applies: {code_span(base.licence)}."
    else:
        yield "That of the base model applies; its manifest does not name it."


def _prompts(artifact: Artifact) -> Iterator[str]:
    yield "## Prompts"
    yield ""
    for instance_prompt, class_prompt in _subjects(artifact):
        yield f"- the subject: {code_span(instance_prompt)}"
        if class_prompt:
            yield f"- its class: {code_span(class_prompt)}"


def _training(artifact: Artifact, pictures: PictureCount) -> Iterator[str]:
    training = artifact.training
    yield "## Training"
    yield ""
    yield f"- photos: {pictures.instance}"
    yield f"- pictures of the class: {pictures.prior}"
    yield f"- steps: {training.steps}"
    yield f"- loss, mean of a tenth of the steps: {training.first_loss:.4f} at first, {training.last_loss:.4f} at last"
    yield (
        "- loss on noise that was never trained on: "
        f"{training.held_out_before:.4f} before, {training.held_out_after:.4f} after"
    )
    yield ""
    yield "### Hyperparameters"
    yield ""
    for name, value in artifact.hyperparameters.model_dump(mode="json", exclude_none=True).items():
        yield f"- {name}: {code_span(json.dumps(value))}"


def _lineage(artifact: Artifact, base: BaseModelManifest) -> Iterator[str]:
    yield "## Lineage"
    yield ""
    yield f"- base model: {code_span(artifact.base_model)}"
    yield f"- its checksum: {code_span(artifact.base_model_checksum)}"
    yield f"- its source: {code_span(base.source)}"
    if artifact.continued_from:
        yield f"- trained further from: {code_span(artifact.continued_from)}"
    for library, version in sorted(artifact.versions.items()):
        yield f"- {library}: {code_span(version)}"


def _subjects(artifact: Artifact) -> list[tuple[str, str | None]]:
    """(instance prompt, class prompt), the main subject first."""
    others = [(concept.instance_prompt, concept.class_prompt) for concept in artifact.concepts]
    return [(artifact.instance_prompt, artifact.class_prompt), *others]


def _samples(artifact: Artifact) -> list[tuple[str, str]]:
    """(path, prompt): each prompt has drawn as many as the others, one prompt after the other."""
    prompts = [instance_prompt for instance_prompt, _ in _subjects(artifact)]
    samples = artifact.training.samples
    return [(sample.path, prompts[number * len(prompts) // len(samples)]) for number, sample in enumerate(samples)]


def _hub_repository(base: BaseModelManifest) -> str | None:
    found = _HUB_REPOSITORY.fullmatch(base.source.strip())
    return found[1] if found else None


def printable(text: str) -> str:
    """On one line, without characters that hide, reverse or end others."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() or char in _JOINERS else "\ufffd" for char in line)


def yaml_text(text: str) -> str:
    """A double-quoted YAML string. Everything that YAML forbids or reads in its own way was replaced or is escaped."""
    escaped = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(f"\\u{ord(char):04x}" if char in _JOINERS else char for char in escaped) + '"'


def code_span(text: str) -> str:
    """Markdown that shows the text as it is: inside a code span neither Markdown nor HTML means anything."""
    line = printable(text) or " "
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if longest else ""
    return f"{fence}{padding}{line}{padding}{fence}"
