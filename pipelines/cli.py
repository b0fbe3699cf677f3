"""The command line: ``corpusmill``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.house import ForeignPackage, check_house

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From the raw web to a trained, served language model, in one DAG.\n\n"
    "Start with `corpusmill quickstart`.",
)
console = Console()
errors = Console(stderr=True)

RunFolder = Annotated[Path, typer.Argument(help="The run's folder, as runs/quickstart.")]


def _stop(error: Exception | str, code: int = 2) -> typer.Exit:
    errors.print(f"corpusmill: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(code)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The DAG, a YAML file.")],
    run: Annotated[
        Path | None, typer.Option(help="Folder of this run [default: runs/<name of the DAG>].")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a value of the YAML: nodes.crawl.max_pages=50."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this node.")] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Begin at this node; those before it stay as this run last had them."),
    ] = None,
    accept_gap: Annotated[
        list[str] | None,
        typer.Option(help="Go on although work items of this node failed for good (recorded)."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster to run on [default: a local one of our own].")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Cores of the local Ray [default: all].")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is done, and what a model would be asked.")
    ] = False,
) -> None:
    """Run a DAG, or go on with it: what is done already is not done again.

    Exit codes: 0 done, 2 config, 3 something failed for good, 4 disk full, 130 interrupted.

    Examples:

        corpusmill run configs/quickstart.yaml

        corpusmill run my.yaml --set nodes.crawl.max_pages=50 --until documents
    """
    from pipelines.launch import launch

    raise typer.Exit(
        launch(
            config,
            run,
            set_ or [],
            console,
            until=until,
            start=from_,
            accept_gaps=tuple(accept_gap or ()),
            ray_address=ray_address,
            workers=workers,
            dry_run=dry_run,
        )
    )


@app.command()
def status(
    run: RunFolder,
    watch: Annotated[bool, typer.Option(help="Follow a live run.")] = False,
) -> None:
    """Show how far a run is; from another terminal, on a live run too.

    Example: corpusmill status runs/quickstart --watch
    """
    from rich.live import Live

    from pipelines.progress import render

    def read() -> dict:
        path = run / "status.json"
        if not path.exists():
            raise _stop(f"{run} holds no run: give the folder that `corpusmill run` printed")
        page = json.loads(path.read_text())
        if page["state"] == "running" and time.time() - page["updated"] > 30:
            page["state"] = "gone (its driver wrote nothing for 30 s: run again to go on)"
        return page

    page = read()
    if not watch:
        console.print(render(page))
        return
    with Live(render(page), console=console, auto_refresh=False) as live:
        while page["state"] == "running":
            time.sleep(1)
            page = read()
            live.update(render(page), refresh=True)


@app.command()
def report(run: RunFolder) -> None:
    """Write RUN/report.html: the funnel, drops by rule, throughput, the loss curve.

    Example: corpusmill report runs/quickstart
    """
    from pipelines.report import write_report

    try:
        console.print(str(write_report(run)), highlight=False, soft_wrap=True)
    except FileNotFoundError as error:
        raise _stop(error) from None


@app.command()
def trace(
    run: RunFolder,
    what: Annotated[str, typer.Argument(help="A token shard's row (FILE:ROW), a document's id, or a URL.")],
) -> None:
    """Where a token came from, and what became of a page.

    Examples:

        corpusmill trace runs/quickstart tokens:0:17       row 17 of the node's shard 0

        corpusmill trace runs/quickstart 3f0c...           a document's id

        corpusmill trace runs/quickstart http://127.0.0.1:8411/json.html
    """
    from pipelines.trace import trace_run

    try:
        console.print(trace_run(run, what), markup=False, highlight=False, soft_wrap=True)
    except (ValueError, FileNotFoundError) as error:
        raise _stop(error) from None


@app.command()
def stages(name: Annotated[str | None, typer.Argument(help="One stage.")] = None) -> None:
    """List the stages and their parameters.

    Example: corpusmill stages minhash_dedup
    """
    from pipelines import registry

    if name is None:
        table = Table("stage", "shape", "what it does", box=None, pad_edge=False)
        for known in registry.stage_names():
            cls = registry.stage_class(known)
            table.add_row(known, cls.shape, _first_sentence(cls.__doc__ or ""))
        console.print(table)
        return
    try:
        cls = registry.stage_class(name)
    except KeyError as error:
        raise _stop(error.args[0]) from None
    console.print((cls.__doc__ or "").strip(), markup=False, highlight=False)
    inputs = ", ".join(f"{key} ({kind})" for key, kind in cls.inputs.items()) or "none"
    console.print(f"\ninput: {inputs}; output: {cls.output}; {cls.determinism}\n", highlight=False)
    table = Table("parameter", "type", "default", "meaning", box=None, pad_edge=False)
    whole = registry.adapter(cls).json_schema()
    _add_parameters(table, whole, whole.get("$defs", {}))
    console.print(table)


def _add_parameters(table: Table, page: dict, inner: dict, prefix: str = "") -> None:
    """A row for each parameter of the JSON Schema ``page``, and below it those of a mapping inside."""
    required = page.get("required", [])
    for key, schema in page.get("properties", {}).items():
        kind = schema.get("type") or " | ".join(
            str(part.get("type", part)) for part in schema.get("anyOf", [])
        )
        default = json.dumps(schema["default"]) if "default" in schema else ""
        if key in required:
            default = "(required)"
        reference = schema.get("$ref") or schema.get("items", {}).get("$ref", "")
        kind = kind or ("mapping" if reference else "")
        meaning = " ".join(schema.get("description", "").split())
        table.add_row(prefix + key, kind, escape(default), escape(meaning))
        if reference:
            _add_parameters(table, inner[reference.rsplit("/", 1)[-1]], inner, f"{prefix}{key}.")


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).split(". ")[0].rstrip(".").replace("``", "")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a DAG, for editors.

    Example: corpusmill schema > corpusmill.schema.json
    """
    from pipelines.config import json_schema

    print(json.dumps(json_schema(), indent=1))


@app.command()
def gc(
    store: Annotated[Path, typer.Argument(help="The store, as runs' YAML names it.")],
    delete: Annotated[bool, typer.Option(help="Really delete; without it, only list.")] = False,
) -> None:
    """Find files in a store that no commit names: left by killed workers. Lists unless --delete.

    Stop the runs that use the store first: a file being written has no commit yet.

    Example: corpusmill gc store --delete
    """
    from pipelines.gc import collect

    raise typer.Exit(collect(store, delete, console))


@app.command()
def doctor() -> None:
    """Check this machine: versions, disk, memory, Ray, GPU, known traps and their cures."""
    from pipelines.doctor import examine

    raise typer.Exit(examine(console))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The training config, a YAML file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value: steps=100.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Ranks on Ray, as 8, or 2-8 for as many as there are [default: one process]."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster to run on [default: a local one of our own].")
    ] = None,
) -> None:
    """Pretrain a model from token shards; goes on from its last checkpoint.

    On one machine with several GPUs, torchrun --nproc-per-node 8 -m sigma_model.training CONFIG does the
    same without Ray. Exit codes: 0 done, 2 config, 4 disk full, 5 diverged, 130 interrupted.

    Examples:

        corpusmill train configs/train/sigma_1_5b.yaml --set steps=1000

        corpusmill train configs/train/sigma_1_5b.yaml --workers 8-64 --ray-address 10.0.0.1:6379
    """
    import subprocess

    if workers is not None:
        from pipelines.ray_train import read_workers, train_on_ray

        try:
            code, why = train_on_ray(config, set_ or [], read_workers(workers), ray_address)
        except (ValueError, ConnectionError) as error:
            raise _stop(error) from None
        except RuntimeError as error:
            raise _stop(error, 3) from None
        raise _stop(why, code) if code else typer.Exit()
    command = [sys.executable, "-m", "sigma_model.training", str(config)]
    for setting in set_ or []:
        command += ["--set", setting]
    raise typer.Exit(subprocess.run(command).returncode)


Checkpoint = Annotated[Path, typer.Argument(help="A Hugging Face folder, as training leaves it: RUN/model.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    checkpoint: Checkpoint,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default lets nobody else in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="Name of the model to clients [default: the folder's].")
    ] = None,
    tensor_parallel_size: Annotated[int, typer.Option(help="GPUs to split the model over: 1, 2 or 4.")] = 1,
) -> None:
    """Serve a model through vLLM's OpenAI server, until Ctrl-C or SIGTERM.

    Any other option of `vllm serve` may follow. GET /health answers 200 when it is ready; VLLM_API_KEY in
    the environment makes clients show a key. All processes of the server die with it.

    Examples:

        corpusmill serve runs/sigma/model

        corpusmill serve runs/sigma/model --port 8100 --max-model-len 2048
    """
    from pipelines.serve import serve as become_server

    try:
        become_server(checkpoint, host, port, name, tensor_parallel_size, context.args)
    except ValueError as error:
        raise _stop(error) from None


@app.command()
def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[str | None, typer.Option(help="A prompt; the continuation is printed.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Prompts: a line each, or a .jsonl with a key `prompt`; JSON lines are printed."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the first prompt; the next has the next.")] = 0,
) -> None:
    """Continue prompts by a model, through vLLM in this process.

    Examples:

        corpusmill generate runs/sigma/model --prompt "To list the pods of a node, "

        corpusmill generate runs/sigma/model --file prompts.jsonl > answers.jsonl
    """
    from pipelines.serve import generate as continue_prompts
    from pipelines.serve import read_prompts

    try:
        if (prompt is None) == (file is None):
            raise ValueError("give either --prompt or --file")
        prompts = read_prompts(file) if file else [prompt or ""]
        rows = continue_prompts(checkpoint, prompts, max_tokens, temperature, top_p, seed)
    except (ValueError, OSError) as error:
        raise _stop(error) from None
    for row in rows:
        print(json.dumps(row, ensure_ascii=False) if file else row["text"])


@app.command()
def export(
    training: Annotated[Path, typer.Argument(help="A training's output folder, or one of its checkpoints.")],
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Write a training's last checkpoint as a Hugging Face folder: safetensors, config, tokenizer.

    The way back is init_from in a training config.

    Example: corpusmill export runs/sigma_1_5b models/sigma_1_5b --dtype bfloat16
    """
    if dtype not in ("float32", "bfloat16"):
        raise _stop(f"--dtype {dtype!r} must be float32 or bfloat16")
    import torch

    from sigma_model.training.export import export as write

    try:
        checkpoint = write(training, target, dtype=getattr(torch, dtype))
    except ValueError as error:
        raise _stop(error) from None
    console.print(f"{checkpoint} -> {target}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def data(
    config: Annotated[Path, typer.Argument(help="The training config, a YAML file.")],
    sequence: Annotated[
        int | None, typer.Option(help="Show this sequence of the run, counted from 0, and its documents.")
    ] = None,
    whole: Annotated[bool, typer.Option(help="With --sequence: all of its text.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value: steps=100.")] = None,
) -> None:
    """What a training run reads: datasets, phases and epochs; or one of its sequences.

    Examples:

        corpusmill data configs/train/sigma_phases.yaml

        corpusmill data configs/train/sigma_phases.yaml --sequence 123456
    """
    from pipelines.training_data import read_order, show_plan, show_sequence

    try:
        settings, order = read_order(config, set_ or [])
        if sequence is None:
            show_plan(settings, order, console)
        else:
            show_sequence(settings, order, sequence, whole, console)
    except ValueError as error:
        raise _stop(error) from None


@app.command()
def params(
    config: Annotated[str, typer.Argument(help="A model's YAML file, or FILE:ROW of a file of rows.")],
    vocab_size: Annotated[
        int | None, typer.Option(help="The tokenizer's, where the file says vocab_size: null.")
    ] = None,
) -> None:
    """Count a model's parameters by part, and the bytes of KV cache a token keeps at 16 bit.

    A file of rows is listed row by row.

    Examples:

        corpusmill params configs/model/sigma_1_5b.yaml

        corpusmill params configs/model/ablations.yaml

        corpusmill params configs/model/ablations.yaml:gqa16_nk4
    """
    from sigma_model.config import read_model_config
    from sigma_model.counts import count_parameters, kv_cache_bytes_per_token
    from sigma_model.shapes import model_rows

    try:
        rows = model_rows(config) if Path(config).is_file() else []
        models = {
            row: read_model_config(f"{config}:{row}" if row else config, tokenizer_vocab_size=vocab_size)
            for row in rows or [""]
        }
    except ValueError as error:
        raise _stop(error) from None
    if rows:
        table = Table("row", "parameters", "without embedding", "KV cache a token", box=None, pad_edge=False)
        for row, model in models.items():
            parts = count_parameters(model)
            total, cache = sum(parts.values()), kv_cache_bytes_per_token(model)
            table.add_row(row, f"{total:,}", f"{total - parts['embedding']:,}", f"{cache / 1024:g} KiB")
        console.print(table)
        return
    model = models[""]
    parts = count_parameters(model)
    total = sum(parts.values())
    table = Table("part", "parameters", "share", box=None, pad_edge=False)
    for part, count in parts.items():
        table.add_row(part, f"{count:,}", f"{count / total:.1%}")
    tied = "tied" if model.tie_word_embeddings else "untied"
    table.add_row(f"total ({total / 1e9:.3f} B {tied})", f"{total:,}", "")
    console.print(table)
    cache = kv_cache_bytes_per_token(model)
    console.print(f"\nKV cache at 16 bit: {cache:,} bytes = {cache / 1024:g} KiB a token", highlight=False)


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("quickstart"),
    pages: Annotated[int | None, typer.Option(help="Crawl at most this many pages.")] = None,
) -> None:
    """The whole main job on real pages, on this machine alone: crawl to trained model.

    Starts two servers on loopback ports (the interpreter's documentation, and HTML that installed
    packages carry), crawls them, and goes all the way to token shards, a small Sigma and a report.

    Example: corpusmill quickstart
    """
    from pipelines.quickstart import quickstart as go

    raise typer.Exit(go(folder, pages, console))


def main() -> None:
    """Entry point of the command ``corpusmill``."""
    try:
        check_house()
    except ForeignPackage as error:
        sys.exit(f"corpusmill: {error}")
    app()


if __name__ == "__main__":
    main()
