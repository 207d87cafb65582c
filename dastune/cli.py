"""The command line: plan, run, resume, status, report, policy, ui, doctor. Imports little, so that --help is quick."""

import os
import signal
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dastune.errors import UserError, printable
from dastune.exchange.table import FORMATS

if TYPE_CHECKING:
    from dastune.folder import StudyFolder
    from dastune.orchestration.study import StudyResult

INTERRUPTED = 130  # the exit code of what Ctrl-C ends
SHOW_CURSOR = b"\x1b[?25h\n"  # the live table hides it

app = typer.Typer(
    help="Search augmentation policies side by side, under one metered device-time budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

policies = typer.Typer(
    help="Look at a policy file, and exchange policies with other libraries.",
    no_args_is_help=True,
)
app.add_typer(policies, name="policy")

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A YAML file, or the name of a packaged study.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="RUNDIR", help="A study's folder, such as runs/digits_noise.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field; may be repeated.")
]
BudgetOption = Annotated[
    str | None, typer.Option("--budget", metavar="AMOUNT", help='Budget per search: "90 cpu-seconds", "2000 steps" ...')
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT; default: this machine."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URI",
        help="For nodes that share no folder: s3://BUCKET/PREFIX or gs://..., for checkpoints and a mirror of the "
        "study's folder. [default: the folder itself, which all nodes must see]",
    ),
]
ConcurrentOption = Annotated[
    int | None,
    typer.Option("--max-concurrent", min=1, metavar="N", help="Searches at the same time. [default: as many as fit]"),
]
PolicyArgument = Annotated[
    Path, typer.Argument(metavar="POLICY", help="A policy file, such as runs/digits_noise/policies/das-n0-s0.json.")
]
_FORMS = f"One of {', '.join(FORMATS)}."
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the file of --output if there is one.")]


def _listed(lead: str, about: Mapping[str, str]) -> str:
    """Return a help text with a line, or some, about each of several names; brackets as they are, not as markup."""
    width = max(map(len, about)) + 2
    lines = [textwrap.fill(f"{name:<{width}}{text}", 78, subsequent_indent=" " * width) for name, text in about.items()]
    return f"{lead}\n\n\b\n" + "\n".join(lines).replace("[", "\\[")


@app.command()
def plan(study: StudyArgument, set_: SetOption = None, budget: BudgetOption = None) -> None:
    """Print what a study would run and cost, with every default, and start nothing."""
    from rich.console import Console

    from dastune.config import load_study
    from dastune.plan import plan_text

    Console(highlight=False, soft_wrap=True).print(
        plan_text(load_study(study, overrides=set_ or (), budget=budget)), markup=False
    )


@app.command()
def run(
    study: StudyArgument,
    set_: SetOption = None,
    budget: BudgetOption = None,
    output: Annotated[Path, typer.Option("--output", help="Where the study's folder is made.")] = Path("runs"),
    address: AddressOption = None,
    storage: StorageOption = None,
    max_concurrent: ConcurrentOption = None,
    go_on: Annotated[bool, typer.Option("--resume", help="Go on with the study if its folder is there.")] = False,
) -> None:
    """Run a study: all searches, then the final training of what they found, and the report."""
    from dastune.config import load_study

    config = load_study(study, overrides=set_ or (), budget=budget)
    with _stopped_at_once(output / config.name, address):
        from dastune.orchestration import study as orchestration

        result = orchestration.run(
            config, output=output, address=address, storage=storage, go_on=go_on, max_concurrent=max_concurrent
        )
        _finish(result)


@app.command()
def resume(
    folder: FolderArgument,
    address: AddressOption = None,
    storage: StorageOption = None,
    max_concurrent: ConcurrentOption = None,
) -> None:
    """Go on with a study that was stopped; nothing finished is repeated."""
    with _stopped_at_once(folder, address):
        from dastune.orchestration import study as orchestration

        result = orchestration.resume(folder, address=address, storage=storage, max_concurrent=max_concurrent)
        _finish(result)


@app.command()
def stop(folder: FolderArgument) -> None:
    """Ask a running study to write its checkpoints and end, as Ctrl-C does, from any machine that sees its folder."""
    from dastune.folder import StudyFolder

    study = StudyFolder.existing(folder)
    try:
        study.stop.touch()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); stop its driver by a signal") from error
    typer.echo("if a dastune works on it, it stops within a minute; go on: dastune resume " + str(folder))


@app.command()
def status(
    folder: FolderArgument,
    json_: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
) -> None:
    """Print how a study stands, from its files alone, also while it runs."""
    from dastune.report.status import read_status

    found = read_status(folder)
    typer.echo(found.to_json() if json_ else "\n".join(found.lines))


@app.command()
def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUNDIR...", help="Folders of studies; several are compared, which needs --output."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Where the report is written. [default: RUNDIR/report; with --from-mlflow NAME-report]",
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option("--price-per-hour", metavar="X", help="What a device costs an hour, for the table of costs."),
    ] = None,
    from_mlflow: Annotated[
        str | None,
        typer.Option(
            "--from-mlflow",
            metavar="URI",
            help="In place of a folder: an MLflow store, such as sqlite:////PATH/mlflow.db or http://HOST:PORT.",
        ),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", metavar="NAME", help="Of the store: the study's name, as a rule.")
    ] = None,
    study_id: Annotated[
        str | None,
        typer.Option("--study", metavar="ID", help="Of the experiment, where it has several. [default: the last]"),
    ] = None,
) -> None:
    """Make the report of a study again, from its files alone; or one that compares several studies."""
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from dastune.folder import StudyFolder
    from dastune.report.page import write_report
    from dastune.report.plan import axis_of, read_plan, rows_in_order
    from dastune.report.several import check_output, write_comparison
    from dastune.report.stats import cells
    from dastune.report.tables import console as table

    if price_per_hour is not None and not 0 <= price_per_hour < float("inf"):
        raise UserError(f"--price-per-hour {price_per_hour}: must be a number from 0 on")
    if from_mlflow is None and (experiment, study_id) != (None, None):
        raise UserError("--experiment and --study are of a store; say which: --from-mlflow URI")
    with TemporaryDirectory(prefix="dastune-") as parent:
        studies = [StudyFolder.existing(folder) for folder in folders or ()]
        if from_mlflow is not None:
            if studies or experiment is None:
                raise UserError("--from-mlflow URI takes --experiment NAME, and no folder of a study")
            studies = [_recalled(from_mlflow, experiment, study_id, Path(parent))]
            output = output or Path(f"{studies[0].root.name}-report")
        if not studies:
            raise UserError("no study is given; give the folder of one, such as runs/digits_noise, or of several")
        if output is None:
            if len(studies) > 1:
                raise UserError("several studies are compared in a report of its own; say where: --output DIR")
            page = write_report(studies[0], price_per_hour=price_per_hour)
        elif len(studies) == 1:
            check_output(output)
            page = write_report(studies[0], output, price_per_hour)
        else:
            page = write_comparison(studies, output, price_per_hour)
        for study in studies:
            plan = read_plan(study.study)
            if len(studies) > 1:
                typer.echo(printable(study.root.name))
            searches, finals = rows_in_order(study, plan)
            axis = axis_of(plan, [*searches, *finals])
            Console().print(table(cells(searches, finals, axis), plan, axis))
    typer.echo(f"report  {page}")


def _recalled(uri: str, experiment: str, study_id: str | None, parent: Path) -> "StudyFolder":
    """Return the folder of a study, made again in `parent` from an MLflow store."""
    from dastune.tracking.recall import recall

    return recall(uri, experiment, parent, study_id, lambda text: typer.echo(printable(text), err=True))


@policies.command()
def show(
    policy: PolicyArgument,
    data: Annotated[
        str, typer.Option("--data", metavar="NAME", help="Images: photographs, or a data set, such as digits, cifar10.")
    ] = "photographs",
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", help="Folder of the data set, as data.root of a study.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The picture, a .png, made anew; default: POLICY.png in this folder."),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, max=16, help="Rows of the picture.")] = 4,
    draws: Annotated[int, typer.Option("--draws", min=1, max=16, help="Draws of the policy for each image.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Of the draws, and the images.")] = 0,
) -> None:
    """Print a policy in words, and make a picture of what it does to images."""
    from dastune import policy_commands

    lines = policy_commands.shown(policy)
    picture = output or Path(f"{policy.stem}.png")
    replaced = " (replaced)" if os.path.exists(picture) else ""  # noqa: PTH110  Path.exists raises for long names
    policy_commands.draw(policy, picture, data, data_dir, images, draws, seed)
    for line in [*lines, f"picture: {printable(str(picture))}{replaced}"]:
        typer.echo(line)


@policies.command(
    "export",
    help=_listed(
        "Write a policy in the form of another library; what that cannot express is told by name.\n\nThe forms:",
        {name: form.form for name, form in FORMATS.items()},
    ),
)
def export_policy(
    policy: PolicyArgument,
    to: Annotated[str, typer.Option("--to", metavar="FORM", help=_FORMS)],
    output: Annotated[Path | None, typer.Option("--output", help="The file; default: standard output.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    from dastune import policy_commands

    text, note = policy_commands.export(policy, to)
    if note:
        typer.echo(note, err=True)
    _hand_over(text, output, overwrite)


@policies.command(
    "import",
    help=_listed(
        "Make a policy file of a policy of another library; what it cannot mean is told by name.\n\n"
        "What SOURCE is, by the form that --from says:",
        {name: form.sources for name, form in FORMATS.items()},
    ),
)
def import_policy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, or the text itself, such as cifar10.")],
    form: Annotated[str, typer.Option("--from", metavar="FORM", help=_FORMS)],
    output: Annotated[Path | None, typer.Option("--output", help="The policy file; default: standard output.")] = None,
    image_size: Annotated[
        str | None,
        typer.Option("--image-size", metavar="SIDE|HEIGHTxWIDTH", help="For trivial_augment_wide."),
    ] = None,
    grey_cutout: Annotated[
        bool, typer.Option("--grey-cutout", help="For published: read Cutout as dastune's, which is another one.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    from dastune import policy_commands

    options: dict[str, Any] = {"grey_cutout": True} if grey_cutout else {}
    if image_size is not None:
        options["image_size"] = policy_commands.image_size(image_size)
    _hand_over(policy_commands.imported(source, form, options), output, overwrite)


def _hand_over(text: str, output: Path | None, overwrite: bool) -> None:
    """Write `text` to a file, or to standard output as it is."""
    if output is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    from dastune import policy_commands

    policy_commands.write_new(output, text, overwrite)
    typer.echo(f"wrote {printable(str(output))}", err=True)


@app.command()
def ui(
    folder: FolderArgument,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on loopback.")] = 5000,
) -> None:
    """Open the MLflow UI on a study's records, on loopback."""
    from dastune.config import load_study
    from dastune.folder import StudyFolder
    from dastune.tracking import store_uri, ui_command, ui_environment
    from dastune.tracking.recall import experiment_id
    from dastune.tracking.views import COMPARISON, view_path

    study = StudyFolder.existing(folder)
    config = load_study(study.study)
    uri = config.tracking.uri
    command = ui_command(study, uri, port)
    address = f"http://127.0.0.1:{port}"
    with suppress(UserError):  # it may be a store that has nothing of the study yet
        found = experiment_id(store_uri(study, uri), config.tracking.experiment or config.name)
        address += view_path(found, COMPARISON)
    typer.echo(f"MLflow UI on {address} (Ctrl-C ends it)")
    os.execve(command[0], command, {**os.environ, **ui_environment(study, uri)})


@app.command()
def doctor(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Say also what of this study would run where.")
    ] = None,
    address: AddressOption = None,
) -> None:
    """Print versions, devices, Ray and disk, and what would run where."""
    from dastune.config import load_study
    from dastune.orchestration.doctor import examine

    for line in examine(load_study(study) if study else None, address):
        typer.echo(line)


@contextmanager
def _stopped_at_once(folder: Path, address: str | None) -> Iterator[None]:
    """Leave with 130, and with the command that goes on, at a signal that does not wait for the end."""

    def leave(number: int, frame: FrameType | None) -> None:
        # No exception: one that comes amid an import, or inside Ray, may be passed over. What is half-written is as
        # after a power failure, and Ray's processes end with this one.
        begun = (folder / "study.yaml").exists()
        words = f"stopped at once; go on: dastune resume {folder}\n" if begun else "stopped at once\n"
        with suppress(OSError):  # the terminal may be gone
            os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + words.encode())
        os._exit(INTERRUPTED)

    # A study that is driven elsewhere is to hear of it first.
    handler = signal.default_int_handler if (address or "").startswith("ray://") else leave
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, handler)
    try:
        yield
    except KeyboardInterrupt:
        leave(signal.SIGINT, None)


def _finish(result: "StudyResult") -> None:
    """Print the table and where everything is; leave with 1 if something failed, 130 if the study was stopped."""
    from rich.console import Console

    from dastune.report.plan import axis_of
    from dastune.report.stats import cells
    from dastune.report.tables import console as table

    axis = axis_of(result.plan, [*result.search_rows, *result.final_rows])
    rows = cells(result.search_rows, result.final_rows, axis)
    if rows:
        Console().print(table(rows, result.plan, axis))
    root = result.folder.root
    shown = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
    typer.echo(f"report   {shown / 'report' / 'index.html'}")
    figure = f"{axis.figure}.png"
    if (root / "report" / figure).exists():  # published policies alone make no figure
        typer.echo(f"figure   {shown / 'report' / figure}")
    typer.echo(f"MLflow   dastune ui {shown}")
    if result.undelivered:
        typer.echo(f"{result.undelivered} records are not in MLflow yet; dastune resume {shown} sends them", err=True)
    if result.missing:
        failed = sorted(path.stem for path in result.folder.errors.glob("*.txt") if path.stem in result.missing)
        if failed:
            typer.echo(f"{len(failed)} failed: {', '.join(failed)}; tracebacks in {shown / 'errors'}", err=True)
        unfinished = f"{len(result.missing)} searches or their final trainings are not finished"
        typer.echo(f"{unfinished}; go on: dastune resume {shown}", err=True)
        raise typer.Exit(INTERRUPTED if result.interrupted else 1)


def main() -> None:
    """Run the command line; a fault of the input is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"dastune: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
