"""The model card: what it says, and that text of strangers says nothing but itself."""

from __future__ import annotations

import ast
import json
import re
import shlex
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from contracts.artifact import Artifact, BaseModelManifest, SampleCheck, TrainingSummary
from contracts.generation import GenerationDefaults
from contracts.training import Concept, Hyperparameters
from training_container.model_card import PictureCount, code_span, render_model_card, yaml_text

PROMPT = "a photo of sks robot"


def base_model(**changes: Any) -> BaseModelManifest:
    values = {
        "id": "sd15",
        "files": [],
        "checksum": "c" * 64,
        "resolution": 512,
        "source": "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5",
        "licence": "CreativeML-OpenRAIL-M",
    }
    return BaseModelManifest.model_validate(values | changes)


def artifact(**changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "method": "lora",
        "base_model": "sd15",
        "base_model_checksum": "c" * 64,
        "instance_prompt": PROMPT,
        "class_prompt": "a photo of a robot",
        "resolution": 512,
        "hyperparameters": Hyperparameters(learning_rate=1e-4, max_steps=400),
        "training": TrainingSummary(
            steps=400,
            seconds=123.456,
            first_loss=0.5,
            last_loss=0.25,
            held_out_before=0.4,
            held_out_after=0.3,
            samples=[SampleCheck(path=f"samples/sample-{n}.png", finite=True, contrast=0.5) for n in range(2)],
        ),
        "versions": {"torch": "2.10.0", "diffusers": "0.42.1"},
        "files": [],
    }
    return Artifact.model_validate(values | changes)


def card(base: BaseModelManifest | None = None, **changes: Any) -> str:
    return render_model_card(artifact(**changes), base or base_model(), PictureCount(5, 24))


def front_matter(text: str) -> dict[str, Any]:
    opening, matter, _ = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    assert opening == ""
    loaded: dict[str, Any] = yaml.safe_load(matter)
    return loaded


def body(text: str) -> str:
    return re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)[2]


def code_blocks(text: str) -> dict[str, str]:
    return dict(re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


def test_the_front_matter_is_what_the_hub_reads() -> None:
    assert front_matter(card()) == {
        "license": "creativeml-openrail-m",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "base_model_relation": "adapter",
        "tags": ["stable-diffusion", "dreambooth", "lora"],
        "instance_prompt": PROMPT,
        "widget": [{"text": PROMPT, "output": {"url": f"samples/sample-{n}.png"}} for n in range(2)],
    }
    assert front_matter(card(method="full"))["base_model_relation"] == "finetune"


@pytest.mark.parametrize(
    ("licence", "identifier", "name", "said"),
    [
        ("Apache-2.0", "apache-2.0", None, "`Apache-2.0`"),
        ("openrail++", "openrail++", None, "`openrail++`"),
        ("my own: ask me", "other", "my own: ask me", "`my own: ask me`"),
        (" ", "other", "that of the base model", "its manifest does not name it"),
    ],
)
def test_the_licence_is_the_base_models(licence: str, identifier: str, name: str | None, said: str) -> None:
    text = card(base_model(licence=licence))
    matter = front_matter(text)
    assert (matter["license"], matter.get("license_name")) == (identifier, name)
    assert "That of the base model applies" in text
    assert said in text


@pytest.mark.parametrize("source", ["pretrained by this project", "./models/sd15", "https://example.org/a/b", ""])
def test_a_source_that_is_no_repository_is_none(source: str) -> None:
    text = card(base_model(source=source))
    assert "base_model" not in front_matter(text)
    assert "directory of the base model" in code_blocks(text)["python"]


def test_it_says_how_and_from_what_the_model_was_made() -> None:
    text = card()
    for said in (
        "trained by DreamBooth on 5 photos",
        "- pictures of the class: 24",
        "- steps: 400",
        "0.5000 at first, 0.2500 at last",
        "0.4000 before, 0.3000 after",
        "- learning_rate: `0.0001`",
        "- max_steps: `400`",
        f"- its checksum: `{'c' * 64}`",
        "- diffusers: `0.42.1`",
        "- its class: `a photo of a robot`",
        "![sample 1](samples/sample-1.png)",
    ):
        assert said in text
    assert "123" not in text, "a duration differs from run to run"


def test_several_subjects_have_their_own_prompts_and_pictures() -> None:
    cat = Concept(folder="cat", instance_prompt="a photo of zwx cat", class_prompt=None)
    samples = [SampleCheck(path=f"samples/sample-{n}.png", finite=True, contrast=0.5) for n in range(4)]
    training = artifact().training.model_copy(update={"samples": samples})
    text = card(concepts=[cat], training=training)
    assert [entry["text"] for entry in front_matter(text)["widget"]] == [PROMPT] * 2 + [cat.instance_prompt] * 2
    assert "- the subject: `a photo of zwx cat`" in text


def test_the_python_that_it_shows_names_the_files_and_the_base_models_own_settings() -> None:
    base = base_model(generation_defaults=GenerationDefaults(guidance_scale=4.0))
    code = code_blocks(card(base))["python"]
    ast.parse(code)
    assert "weight_name='pytorch_lora_weights.safetensors'" in code
    assert f"pipeline('{PROMPT}', height=512, width=512, guidance_scale=4.0)" in code
    full = code_blocks(card(base, method="full"))["python"]
    assert "from_pretrained('.')" in full
    assert "lora" not in full


HOSTILE = [
    "a photo of `sks` ``robot``",
    "`",
    "</code><script>alert(1)</script> & <img src=x onerror=alert(1)>",
    "![x](http://example.org/x.png) [y](javascript:alert(1)) https://example.org",
    "line\nbreak\r\n---\nlicense: mit\n# heading\n\n| a | b |",
    'quotes " and \' and \\ and \\" and %s {0} ${HOME} $(id) `id` ; rm -rf /',
    "key: value # comment, - list, *alias, &anchor, !tag, @x, 0x1F, yes, null, ~",
    "'''\"\"\"```\n```python\nprint(1)\n```",
    "\u202egnp.eruting\u2066 \x00\x07\x7f\u0085\u2028 end\ufeff",
    "emoji 👩\u200d🚀, 猫, café, עברית",
    "a" * 2000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_says_nothing_but_itself(text: str) -> None:
    shown = " ".join(text.split())
    base = base_model(licence=text, source=text)
    rendered = card(
        base, instance_prompt=text, class_prompt=text, concepts=[Concept(folder="other", instance_prompt=text)]
    )
    plain = card(base_model(licence="x y", source="x y"), concepts=[Concept(folder="other", instance_prompt="a")])

    matter = front_matter(rendered)
    assert matter.keys() == front_matter(plain).keys()
    assert matter["license"] == "other"
    clean = all(char.isprintable() or char in "\u200c\u200d" for char in shown)
    if clean:
        assert matter["instance_prompt"] == matter["license_name"] == shown

    document = body(rendered)
    assert structure(document) == structure(body(plain))
    blocks = code_blocks(document)
    constants = [node.value for node in ast.walk(ast.parse(blocks["python"])) if isinstance(node, ast.Constant)]
    if clean:
        assert shown in constants
        assert shlex.split(blocks["sh"].strip())[-1] == shown
        assert json.dumps(shown, ensure_ascii=False) in rendered
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f\x7f\u0085\u2028]", rendered)
    rendered.encode("utf-8")


def structure(document: str) -> list[str]:
    """The kinds of everything in the document, in order; text does not count."""
    kinds = []
    for token in MarkdownIt("commonmark", {"linkify": True}).parse(document):
        kinds.append(token.type)
        kinds += [child.type for child in token.children or [] if child.type != "text"]
    return kinds


@pytest.mark.parametrize("text", ["", " ", "`", "``", "a`b", "`a`", "a``b`c", "<b>", "a\nb"])
def test_a_code_span_is_one_span_of_this_text(text: str) -> None:
    (inline,) = MarkdownIt().parseInline(f"x {code_span(text)} y")
    spans = [child for child in inline.children or [] if child.type != "text"]
    assert [span.type for span in spans] == ["code_inline"]
    assert spans[0].content.strip() == " ".join(text.split())


@pytest.mark.parametrize("text", ["x: y", "yes", "1.0", '"', "\\", "\t", "a\nb", "\u200d", "\ud800", "- a"])
def test_a_yaml_text_is_one_string(text: str) -> None:
    loaded = yaml.safe_load(yaml_text(text))
    assert isinstance(loaded, str)
    assert "\n" not in loaded
    loaded.encode("utf-8")


def test_learned_words_and_the_earlier_model_are_told() -> None:
    plain, taught = card(), card(learned_words=[5], continued_from="dog@0123456789ab-1")
    assert "learned_words" not in plain
    assert "trained further" not in plain
    [code] = re.findall(r"```python\n(.*?)```", taught, re.DOTALL)
    ast.parse(code)
    assert "weight.data[words['ids']] = words['rows']" in code
    assert "trained further from: `dog@0123456789ab-1`" in taught
