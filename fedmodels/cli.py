"""The `fedmodels` command: the composition root. Each sub-command imports what it needs when it runs."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from client.cli import app as client_app
from fedmodels import allocator
from fedmodels.errors import FedmodelsError
from server.cli import app as server_app
from simulations.audit_cli import app as audit_app

app = typer.Typer(
    name="fedmodels",
    help="Hospitals train one diagnostic model together; patient data never leaves any of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
study_app = typer.Typer(no_args_is_help=True, help="Write and check study files.")
data_app = typer.Typer(
    no_args_is_help=True, help="Check a hospital's data, fetch public data sets, write synthetic cohorts."
)
bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine, side by side with what others offer.")
app.add_typer(audit_app, name="audit")
app.add_typer(client_app, name="client")
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(server_app, name="server")

Run = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]
Binding = Annotated[Path, typer.Option("--data", help="A data binding (data.toml).", show_default=False)]
Setting = Annotated[list[str] | None, typer.Option("--set", help="Change a key, say privacy.epsilon=3. Repeatable.")]


@app.command()
def simulate(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a bundled study.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The run directory to make.", show_default=False)],
    sites: Annotated[
        list[str] | None,
        typer.Option(help="A number of hospitals to divide pooled data among, or a folder per hospital. Repeatable."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A pooled data binding to divide.")] = None,
    partition: Annotated[str, typer.Option(help="How to divide it: iid, or dirichlet:ALPHA.")] = "iid",
    backend: Annotated[str, typer.Option(help="local (one process) or ray (Flower's simulation engine).")] = "local",
    drop: Annotated[float, typer.Option(min=0.0, max=0.9, help="Chance of a hospital to fail in a stage.")] = 0.0,
    mode: Annotated[str, typer.Option(help="Another privacy mode; `distributed` with constants for it.")] = "",
    setting: Setting = None,
) -> None:
    """Run a whole study on this machine, hospitals and coordinator alike."""
    from fedmodels.settings import for_mode
    from simulations.commands import Conditions
    from simulations.commands import simulate as command

    settings = [*for_mode(mode), *(setting or [])]
    command(study, out, sites or [], data, Conditions(partition, backend, drop), settings)


@app.command()
def evaluate(
    run: Run,
    data: Binding,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    split: Annotated[str, typer.Option(help="Which records: test, train or all.")] = "test",
) -> None:
    """Measure a run's model on labelled data."""
    from fedmodels.commands.models import evaluate as command

    command(run, data, split, as_json=json)


@app.command()
def predict(
    run: Run,
    data: Binding,
    out: Annotated[Path | None, typer.Option(help="Write a CSV here instead of printing it.")] = None,
    split: Annotated[str, typer.Option(help="Which records: test, train or all.")] = "all",
) -> None:
    """Print the model's probability of every label for each record; the data need no labels."""
    from fedmodels.commands.models import predict as command

    command(run, data, split, out)


@app.command()
def explain(
    run: Run,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A data binding, an image, or a .txt.", show_default=False)
    ],
    patient: Annotated[str, typer.Option(help="Whose record.")] = "",
    record: Annotated[int | None, typer.Option(min=1, help="Which of them, from 1.")] = None,
    label: Annotated[str, typer.Option(help="Explain this label instead of the predicted one.")] = "",
    out: Annotated[Path, typer.Option(help="The picture: an .html or, but for texts, a .png.")] = Path(
        "explanation.html"
    ),
) -> None:
    """Draw what moved the model's answer for one record; the data need no labels."""
    from fedmodels.commands.explain import explain as command

    command(run, source, patient, record, label, out)


@app.command()
def export(run: Run, out: Annotated[Path, typer.Option(help="The folder to write to.", show_default=False)]) -> None:
    """Write a run's model as ONNX beside safetensors and its card, once both are found to predict alike."""
    from fedmodels.commands.export import export as command

    command(run, out)


@app.command()
def report(
    run: Run,
    examples: Annotated[
        Path | None, typer.Option(help="Explain these records on it (a data.toml): synthetic or consented ones only.")
    ] = None,
) -> None:
    """Write a run's report.html again."""
    from fedmodels.commands.models import report as command

    command(run, examples)


@study_app.command("new")
def study_new(
    out: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)] = Path("study.toml"),
    name: Annotated[str, typer.Option(help="Name of the study.")] = "",
    model: Annotated[str, typer.Option(help="Model family or preset.")] = "",
    labels: Annotated[str, typer.Option(help="Class names, separated by commas.")] = "",
    mode: Annotated[str, typer.Option(help="Privacy mode: distributed, local or none.")] = "",
    hospitals: Annotated[int, typer.Option(help="Number of hospitals.")] = 0,
    epsilon: Annotated[float, typer.Option(help="Privacy budget of the study.")] = 8.0,
) -> None:
    """Write a commented study file; asks for what is not given."""
    from fedmodels.commands.study import study_new as command

    command(out, name, model, labels, mode, hospitals, epsilon)


@study_app.command("check")
def study_check(study: Annotated[Path, typer.Argument(help="A study file.", show_default=False)]) -> None:
    """Check a study file and say in plain words what it promises to patients and costs them."""
    from fedmodels.commands.study import study_check as command

    command(study)


@data_app.command("check")
def data_check(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a bundled study.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="A data binding (data.toml).", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Write a page with plots into this private folder.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Also list there which rows the findings are about.")] = False,
    pictures: Annotated[bool, typer.Option("--pictures", help="Show images of patients on the page.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what is wrong with a hospital's records for a study. Nothing of it leaves this machine."""
    from fedmodels.commands.check import Wanted
    from fedmodels.commands.check import data_check as command
    from simulations.commands import study_file

    command(study_file(study), data, Wanted(out, rows, pictures), as_json=json)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a data set; leave out to list them.")] = "",
    into: Annotated[Path, typer.Option(help="Folder for public data sets.")] = Path("data"),
) -> None:
    """Download the public originals of a data set, checked against a pinned checksum."""
    from fedmodels.commands.data import data_fetch as command

    command(name, into)


@data_app.command("synthetic")
def data_synthetic(
    kind: Annotated[str, typer.Argument(help="image, series, text or table.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    hospitals: Annotated[int, typer.Option(min=1, help="Number of hospitals.")] = 4,
    patients: Annotated[int, typer.Option(min=2, help="Patients per hospital.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Write a SYNTHETIC cohort: ordinary files and a data binding for each hospital."""
    from simulations.commands import data_synthetic as command

    command(kind, out, hospitals, patients, seed)


@bench_app.command("secagg")
def bench_secagg(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="1M parameters, 10 hospitals, 3 repetitions.")] = False,
) -> None:
    """Secure aggregation beside Flower's SecAgg+, CKKS and plain sums. About a quarter of an hour, or half a minute."""
    from simulations.benchmarks.secagg_command import secagg as command

    command(as_json=json, quick=quick)


@bench_app.command("dp")
def bench_dp(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Three small models, 3 repetitions.")] = False,
) -> None:
    """A private training step beside the plain one and beside Opacus. About ten minutes, or one."""
    from simulations.benchmarks.private_steps_command import private_steps as command

    command(as_json=json, quick=quick)


@bench_app.command("round")
def bench_round(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A small model, 3 repetitions.")] = False,
) -> None:
    """What secure aggregation adds to a simulated round, against the same round with a plain sum."""
    from simulations.benchmarks.round_command import round_overhead as command

    command(as_json=json, quick=quick)


@bench_app.command("images")
def bench_images(
    count: Annotated[int, typer.Option("--images", min=1, help="How many to make up.")] = 100_000,
    dicom: Annotated[bool, typer.Option("--dicom", help="DICOM by its tags, not PNG by an index.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Memory and time for many images on disk."""
    from simulations.benchmarks.images import images as command

    command(count, "dicom" if dicom else "png", as_json=json)


@bench_app.command("noise")
def bench_noise(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="3 repetitions.")] = False,
) -> None:
    """Cryptographic and exact noise beside the generators of numpy and torch."""
    from simulations.benchmarks.noise import noise as command

    command(as_json=json, quick=quick)


@bench_app.command("deployment")
def bench_deployment(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A model of 1 MB, 4 rounds.")] = False,
) -> None:
    """Seconds per round of a coordinator and three hospitals as processes of their own. About five minutes, or one."""
    from simulations.benchmarks.deployed_rounds import deployed_rounds as command

    command(as_json=json, quick=quick)


@bench_app.command("constants")
def bench_constants(
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each cell.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Learning rates and clips of mode `distributed` on SYNTHETIC cohorts. About half an hour."""
    from simulations.benchmarks.constants import constants as command

    command(seeds, as_json=json)


@bench_app.command("utility")
def bench_utility(
    problem: Annotated[str, typer.Option(help="One data set only.", show_default="all")] = "",
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each row.", show_default="5 to 20")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw scores against epsilon: a .png or .svg.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What privacy costs in accuracy: pooled, distributed, local and alone, beside no privacy. About an hour."""
    from simulations.benchmarks.utility_command import utility as command

    command(problem, seeds, plot, as_json=json)


def main() -> NoReturn:
    """Run the command line; exit with 0 done, 1 failed, 2 wrong use, 3 refused by policy or budget."""
    allocator.tune()
    try:
        app()
    except FedmodelsError as error:
        sys.stderr.write(f"fedmodels: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"fedmodels: {where}{error.strerror or error}\n  -> check the path, permissions and space\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("fedmodels: stopped\n")
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
