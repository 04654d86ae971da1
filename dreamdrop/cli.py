"""The command line: results on stdout, progress and failures on stderr; exit code 1 for a failure, 2 for bad usage."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from contracts.errors import ErrorReport, InvalidRequest, SubjectNotReady
from contracts.generation import GenerationRequest, PictureFormat, Scheduler
from contracts.storage import source_prefix
from contracts.training import describe
from dreamdrop import base_models, demo, redrive, single_file, up
from dreamdrop.api import Api
from dreamdrop.client import SETTLE_TIMEOUT_SECONDS, Client, make_folder
from dreamdrop.deployment import Deployment
from dreamdrop.export import Format, export
from dreamdrop.failures import EXPECTED, explain
from dreamdrop.formats import Dtype
from dreamdrop.formats.architecture import PredictionType
from dreamdrop.local import process
from dreamdrop.local.settings import DEFAULT_PORT
from dreamdrop.progress import RunDisplay, describe_receipt, timed
from dreamdrop.published import version_manifest

app = typer.Typer(
    help="Drop a handful of photos of one thing; get back an API that draws it anywhere.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
stderr = Console(stderr=True)

INTERRUPTED = 130
DEFAULT_PREFIX = "dreamdrop"
LOCAL_SETTLE_SECONDS = 15.0  # the local quiet period is 2 s
FIELDS = GenerationRequest.model_fields
LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
NOT_YET_UPLOADED = source_prefix("") + 32 * "0"  # a request is checked before its source picture is uploaded

Aws = Annotated[bool, typer.Option("--aws", help="Use the deployment in the AWS account, not the local cloud.")]
Prefix = Annotated[str, typer.Option(help="With --aws: the prefix of the stacks' names.")]
Region = Annotated[str | None, typer.Option(help="With --aws: the region; that of the credentials when absent.")]

Port = Annotated[int, typer.Option(min=1, max=65535, envvar="DREAMDROP_PORT", help="Port of the local cloud.")]


def field_help(name: str) -> str:
    """The contract's own words, and its limits."""
    schema = GenerationRequest.model_json_schema()["properties"][name]
    variants = [schema, *schema.get("anyOf", [])]
    limits = [f"{word} {variant[key]}" for variant in variants for key, word in LIMITS.items() if key in variant]
    description = FIELDS[name].description or name.replace("_", " ").capitalize()
    return f"{description.rstrip('.')} ({' '.join(limits)})." if limits else description


def deployment_of(aws: bool, prefix: str, region: str | None) -> Deployment:
    return Deployment.in_account(prefix, region) if aws else Deployment.local()


def command_line(aws: bool, prefix: str, region: str | None) -> Callable[..., str]:
    """Makes commands to paste, for the same deployment as the one that was given."""
    options = ["--aws"] if aws else []
    options += ["--prefix", prefix] if aws and prefix != DEFAULT_PREFIX else []
    options += ["--region", region] if aws and region else []
    return lambda *words: shlex.join([up.program(), *words, *options])


@contextmanager
def waiting(unless_waited_for: str) -> Iterator[None]:
    """Ctrl-C ends the waiting, not the work in the cloud: says what becomes of it."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(unless_waited_for, markup=False, highlight=False, soft_wrap=True)
        raise


def say(value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(f"{text}\n")


@app.command("up")
def up_command(
    port: Port = DEFAULT_PORT,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay attached; Ctrl-C ends it.")] = False,
) -> None:
    """Starts the local cloud and deploys everything into it. No AWS account, docker or GPU is needed.

    Example:  dreamdrop up
    """
    cloud = up.start(port, stderr, detached=not foreground)
    say(up.introduction(Deployment.local()))
    if cloud is not None and foreground:
        up.stay(cloud)


@app.command("down")
def down_command() -> None:
    """Ends the local cloud and everything that runs in it. What it stored stays in .local/."""
    say("The local cloud is down." if process.down(up.STATE) else "The local cloud was not up.")


@app.command("status")
def status_command() -> None:
    """Says whether the local cloud is up, and where."""
    say(up.describe_status())


@app.command("drop")
def drop_command(
    directory: Annotated[Path, typer.Argument(help="The folder with the photos.")],
    subject: Annotated[str | None, typer.Option(help="Its name in the API; the folder's name when absent.")] = None,
    wait: Annotated[bool, typer.Option(help="Watch until the subject is ready.")] = True,
    aws: Aws = False,
    prefix: Prefix = DEFAULT_PREFIX,
    region: Region = None,
) -> None:
    """Uploads a folder of photos and watches until its subject can be drawn.

    Files that were dropped before stay in the bucket; delete there what is to be left out.

    Example:  dreamdrop drop examples/datasets/robot
    """
    client = Client(deployment_of(aws, prefix, region))
    command = command_line(aws, prefix, region)
    name = subject or directory.resolve().name
    before = client.newest_run(name)
    later = f"Look at it: {command('subject', name)}\nEnd it, and delete all of it: {command('delete', name)}"
    with waiting(f"What was uploaded is trained nevertheless.\n{later}"), timed(stderr, f"Uploading {directory}"):
        keys = client.drop(directory, name)
    if not wait:
        return say(keys)
    with waiting(f"The training of {name} goes on.\n{later}"), RunDisplay(stderr) as display:
        ready = client.wait_until_ready(
            name,
            display.show,
            newer_than=before,
            settle_seconds=SETTLE_TIMEOUT_SECONDS if aws else LOCAL_SETTLE_SECONDS,
        )
    if ready.run and ready.run.id == before:
        return say(f"Nothing is new: these files make version {ready.version}, which is served already.")
    if ready.run and ready.run.ignored:
        stderr.print(f"Left out: {', '.join(ready.run.ignored)}", markup=False, highlight=False, soft_wrap=True)
    if ready.run and ready.run.receipt:
        cost = describe_receipt(ready.run.receipt)
        stderr.print(f"Cost: {cost}.", markup=False, highlight=False, soft_wrap=True)
    return say(
        f"{name} is ready, version {ready.version}. Try:\n  {command('generate', name, str(ready.instance_prompt))}"
    )


@app.command("subjects")
def subjects_command(aws: Aws = False, prefix: Prefix = DEFAULT_PREFIX, region: Region = None) -> None:
    """Lists the subjects, one JSON document."""
    say([subject.plain() for subject in Client(deployment_of(aws, prefix, region)).subjects()])


@app.command("subject")
def subject_command(name: str, aws: Aws = False, prefix: Prefix = DEFAULT_PREFIX, region: Region = None) -> None:
    """Shows one subject with its newest run, one JSON document.

    Example:  dreamdrop subject robot
    """
    say(Client(deployment_of(aws, prefix, region)).subject(name).plain())


@app.command("delete")
def delete_command(
    subject: Annotated[str, typer.Argument(help="Its name in the API.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")] = False,
    aws: Aws = False,
    prefix: Prefix = DEFAULT_PREFIX,
    region: Region = None,
) -> None:
    """Deletes a subject for good: its photos, its models, and every picture that it is in. Waits until all is gone.

    Example:  dreamdrop delete robot
    """
    client = Client(deployment_of(aws, prefix, region))
    client.subject(subject)  # before the question: there may be none of that name
    if not yes:
        question = f"Photos, models and pictures of {subject} cannot be brought back. Type its name to delete them"
        typed = typer.prompt(question, err=True).strip()
        if typed != subject:
            raise InvalidRequest(f"{typed!r} is not {subject!r}: nothing was deleted.", "Type the subject's name.")
    client.delete(subject)
    with waiting(f"The deletion of {subject} goes on."), timed(stderr, f"Deleting {subject}"):
        client.wait_until_gone(subject)
    say(f"{subject} is deleted.")


@app.command("generate")
def generate_command(
    subject: Annotated[str, typer.Argument(help=field_help("subject"))],
    prompt: Annotated[str, typer.Argument(help=field_help("prompt"))],
    count: Annotated[int, typer.Option("-n", "--count", help=field_help("num_images_per_prompt"))] = FIELDS[
        "num_images_per_prompt"
    ].default,
    seed: Annotated[int | None, typer.Option(help=field_help("seed"))] = None,
    steps: Annotated[int | None, typer.Option(help=field_help("num_inference_steps"))] = None,
    size: Annotated[int | None, typer.Option(help=field_help("width"))] = None,
    scheduler: Annotated[Scheduler | None, typer.Option(help=field_help("scheduler"))] = None,
    lora_scale: Annotated[float | None, typer.Option(help=field_help("lora_scale"))] = None,
    mix: Annotated[
        list[str] | None, typer.Option(metavar="SUBJECT[:SCALE]", help=f"{field_help('mix')} May be repeated.")
    ] = None,
    source: Annotated[Path | None, typer.Option(metavar="FILE", help=field_help("source_image"))] = None,
    strength: Annotated[float | None, typer.Option(help=field_help("strength"))] = None,
    upscale: Annotated[int | None, typer.Option(help=field_help("upscale"))] = None,
    version: Annotated[str | None, typer.Option(help=field_help("version"))] = None,
    form: Annotated[PictureFormat | None, typer.Option("--format", help=field_help("format"))] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    aws: Aws = False,
    prefix: Prefix = DEFAULT_PREFIX,
    region: Region = None,
) -> None:
    """Draws a subject; prints the paths of the pictures.

    Example:  dreamdrop generate robot 'a photo of a sks robot on the beach' -n 2 --seed 7

    Example:  dreamdrop generate robot 'a photo of a sks robot' --source sketch.png --strength 0.6 --upscale 2
    """
    asked = {
        "subject": subject,
        "prompt": prompt,
        "num_images_per_prompt": count,
        "seed": seed,
        "num_inference_steps": steps,
        "width": size,
        "height": size,
        "scheduler": scheduler,
        "lora_scale": lora_scale,
        "mix": [_mixed(other) for other in mix] if mix else None,
        "source_image": NOT_YET_UPLOADED if source else None,
        "strength": strength,
        "upscale": upscale,
        "version": version,
        "format": form,
    }
    request = _checked({name: value for name, value in asked.items() if value is not None})
    client = Client(deployment_of(aws, prefix, region))
    make_folder(out)  # before anything is drawn, and paid for
    if source:
        with timed(stderr, f"Uploading {source}"):
            request = request.model_copy(update={"source_image": client.upload_source(source)})
    accepted = client.generate(request)
    cancel = command_line(aws, prefix, region)("cancel", accepted.id)
    later = f"It is drawn nevertheless, for GET /v1/generations/{accepted.id}. Take it back while it waits: {cancel}"
    with waiting(later), timed(stderr, f"Drawing {accepted.id}"):
        generation = client.wait_for_generation(accepted.id)
    for path in client.save_images(generation, out):
        say(str(path))


@app.command("cancel")
def cancel_command(
    generation: Annotated[str, typer.Argument(help="Its id, as `generate` and the API tell it.")],
    aws: Aws = False,
    prefix: Prefix = DEFAULT_PREFIX,
    region: Region = None,
) -> None:
    """Cancels a queued request for pictures. Should they be drawn nevertheless, they are thrown away.

    Example:  dreamdrop cancel 4f2c…
    """
    say(f"{Client(deployment_of(aws, prefix, region)).cancel(generation).id} is cancelled.")


def _mixed(text: str) -> dict[str, str]:
    """SUBJECT[:SCALE]"""
    subject, colon, scale = text.partition(":")
    return {"subject": subject} | ({"lora_scale": scale} if colon else {})


def _checked(values: dict[str, Any]) -> GenerationRequest:
    try:
        return GenerationRequest.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(f"{describe(error)}.") from error


@app.command("redrive")
def redrive_command(
    queue: Annotated[
        str | None, typer.Argument(help="What the messages are about, as listed; all when absent.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List them and replay nothing.")] = False,
    aws: Aws = False,
    prefix: Prefix = DEFAULT_PREFIX,
    region: Region = None,
) -> None:
    """Sends messages that could not be handled back to where they came from, once the cause is mended.

    Prints how many lie in each dead-letter queue, and since when (the oldest of up to ten that are looked at). Handling
    a message twice does no harm.

    Example:  dreamdrop redrive --dry-run --aws

    Example:  dreamdrop redrive Generations --aws
    """
    deployment = deployment_of(aws, prefix, region)
    told = []
    for name, found in redrive.chosen(deployment, queue).items():
        aside = redrive.look(deployment, name, found).plain()
        if not dry_run:
            aside["replayed"] = redrive.replay(deployment, found) if aside["messages"] else 0
        told.append(aside)
    say(told)


@app.command("import-base")
def import_base_command(
    path: Annotated[
        Path,
        typer.Argument(help="A diffusers directory (safetensors only), or a model in one file (.safetensors, .ckpt)."),
    ],
    model_id: Annotated[str, typer.Option("--id", help="Its name in dataset_info.json (base_model).")],
    licence: Annotated[str, typer.Option(help="The licence of the weights, recorded with them.")],
    source: Annotated[str, typer.Option(help="Where the weights came from, recorded with them.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="One file: a directory with CLIP's tokenizer; tokenizer/ beside the file when absent."),
    ] = None,
    prediction_type: Annotated[
        PredictionType | None, typer.Option(help="One file: what it predicts. 2.x files do not tell it; 1.x: epsilon.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=64, max=1024, help="One file: its side in pixels; 768 for 2.x v_prediction, else 512."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="One file: where its diffusers directory is put; FILE-diffusers when absent.")
    ] = None,
    aws: Aws = False,
    prefix: Prefix = DEFAULT_PREFIX,
    region: Region = None,
) -> None:
    """Imports a base model into the data bucket, with a checksum for each file. Repeating it uploads what is missing.

    A model in one file is converted first, once, on this machine and without a network.

    Example:  dreamdrop import-base ./sd21 --id stable-diffusion-2-1-base --licence openrail++ --source huggingface

    Example:  dreamdrop import-base sd15.safetensors --id sd15 --tokenizer ./tok --licence openrail --source a-friend
    """
    deployment = deployment_of(aws, prefix, region)
    asked = single_file.Asked(tokenizer, prediction_type, resolution, directory)
    if path.is_file():
        with timed(stderr, f"Converting {path}"):
            path = single_file.converted(path, asked)
    elif asked != single_file.Asked():
        raise InvalidRequest(f"{path} is not a file: it is imported as it is.", "Leave the options for one file out.")
    with timed(stderr, "Computing checksums"):
        manifest = base_models.describe_directory(path, model_id, source, licence)
    uploaded = base_models.import_directory(deployment, path, manifest, _show_transfer)
    say({"id": manifest.id, "checksum": manifest.checksum, "resolution": manifest.resolution, "uploaded": uploaded})


@app.command("export")
def export_command(
    subject: Annotated[str, typer.Argument(help=field_help("subject"))],
    out: Annotated[Path, typer.Argument(help="What to write: a .safetensors file; with --format diffusers a folder.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="diffusers: the files as published. comfyui: the LoRA for ComfyUI and A1111. "
            "checkpoint: the whole model in one file, a LoRA merged into its base model.",
        ),
    ] = "diffusers",
    version: Annotated[str | None, typer.Option(help="The version; the one that is served when absent.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Number format of a file that is converted; fp16 when absent.")
    ] = None,
    aws: Aws = False,
    prefix: Prefix = DEFAULT_PREFIX,
    region: Region = None,
) -> None:
    """Writes a trained subject for other programs: diffusers, ComfyUI, A1111.

    ComfyUI and A1111 load what was trained on Stable Diffusion 1.x or 2.x, which the local Toyworld is not.

    Example:  dreamdrop export robot out/robot-lora

    Example:  dreamdrop export my-dog my-dog.safetensors --format comfyui

    Example:  dreamdrop export my-dog my-dog-model.safetensors --format checkpoint --dtype fp32
    """
    deployment = deployment_of(aws, prefix, region)
    wanted = version or Client(deployment).subject(subject).version
    if wanted is None:
        raise SubjectNotReady(f"No version of {subject} can be drawn yet.")
    manifest = version_manifest(deployment, subject, wanted)
    with timed(stderr, f"Exporting {subject}, version {wanted}"):
        export(deployment, manifest, form, out, dtype, _show_transfer)
    say(str(out))


def _show_transfer(file: str, done: int, total: int) -> None:
    stderr.print(f"{100 * done / max(total, 1):3.0f} %  {file}", markup=False, highlight=False)


@app.command("openapi")
def openapi_command(aws: Aws = False, prefix: Prefix = DEFAULT_PREFIX, region: Region = None) -> None:
    """Prints the API's own description, OpenAPI as JSON."""
    say(Api(deployment_of(aws, prefix, region)).call("GET", "/v1/openapi.json"))


@app.command("demo")
def demo_command(
    dataset: Annotated[Path, typer.Option(help="The folder with the photos.")] = demo.DATASET,
    out: Annotated[Path, typer.Option(help="Folder for the report; its contents are replaced.")] = demo.OUT,
    port: Port = DEFAULT_PORT,
) -> None:
    """From five photos to pictures, on this machine: the whole journey in a cloud of its own, then a report.

    When the port is taken, another one is used.
    """
    result = demo.run(dataset, out, port, stderr)
    say("\n".join([f"report  {result.report}", f"grid    {result.grid}", f"timings {result.timings}"]))


def _stop_like_ctrl_c(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def run_command_line(command: Callable[[], None]) -> int:
    """The exit code. SIGTERM ends everything in the same orderly way as Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job would else ignore SIGINT
        signal.signal(number, _stop_like_ctrl_c)
    try:
        command()
    except EXPECTED as error:
        complain(explain(error))
        return 1
    except SystemExit as ended:  # Typer ends every command so, an interrupted one with 130
        if ended.code == INTERRUPTED:
            stderr.print("Stopped.")
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def complain(report: ErrorReport) -> None:
    stderr.print(f"Failed ({report.code}): {report.cause}", style="red", markup=False, highlight=False, soft_wrap=True)
    stderr.print(f"Cure: {report.cure}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    sys.exit(run_command_line(app))


if __name__ == "__main__":
    main()
