"""What a stage is: the contract between the engine and the work.

A stage is a frozen, keyword-only, standard dataclass. Its fields are the parameters a user writes
in YAML, each documented by the string under it; it raises ValueError in ``__post_init__`` when
they make no sense together. Its class variables tell the engine what it is:

    stage        its name in YAML
    shape        "source", "map", "expand", "shuffle" or "fit"
    version      an integer, bumped by hand whenever output bytes move
    determinism  "exact", "seeded" or "recorded"
    libraries    distributions whose version can change the output, ("numba", "pyarrow"), and
                 "unicodedata" where Python's Unicode tables can
    inputs       {input name: kind}, kinds "documents", "warc", "tokens", "artifact"
    optional     of ``inputs``, names that a node may leave out
    output       kind of the dataset it writes
    needs        columns it reads (checked before the node starts)
    adds         columns it adds, {name: pyarrow type as text}

A stage may also have ``columns() -> set[str]`` (what it needs, when parameters decide that) and
``identity() -> dict`` (what its fingerprint sees instead of its parameters, where those name a place:
the content of a file, never its path; a source's arguments may hold a "path", which is left out too).
It never imports the engine, so it can live in ``filters`` or in a user's package. By shape:

source   items(self) -> list[dict]            JSON arguments, one dict a work item
         read(self, args, committed) -> Iterator[pa.Table | Path]
                                              each part is committed before the next is asked for;
                                              ``committed``: paths of this item's earlier parts
map      annotate(self, table, **artifacts) -> pa.Table      same rows, same order, more columns
expand   expand(self, shard, **artifacts) -> pa.Table        ``shard`` is a pa.Table (documents, tokens)
                                              or a Path (warc); the result has ``parent_row``
                                              (int64): the row (or record) each row came from.
                                              Every input row appears at least once: as output,
                                              as a drop, or as an error. It may return (table,
                                              report): the reports (dicts, JSON) of a node's items
                                              are added up, number by number
         ``estimate(shard, *, seed, **artifacts)``, if there is one, says what a model would be asked:
         {name: {"requests", "prompt_tokens", "output_tokens"}}, for --dry-run
         A stage with ``resident = True`` keeps something loaded (a model, a connection) from item
         to item: its items run in ``replicas`` actors, each with ``cpus`` and ``gpus``, that live as
         long as the node, two items at a time, in threads. Its expand also gets, by keyword, ``node``
         (name), ``seed`` (of the run), ``scratch`` (a folder of this item that survives a crash; one
         process at a time has it), and ``progress(text)``, to call now and then: it raises when the
         run is to stop. An error with ``spoils_worker = True`` replaces the actor
shuffle  phases = (("sign", "shard"), ("group", "partition"), ("cluster", "all"), ("apply", "shard"))
         one method a phase, named as it:
         per "shard"      sign(self, shard: int, table, mine) -> dict[str, pa.Table]
                          ``table``: the input shard, of it the columns ``reads[phase]`` when the
                          stage has ``reads``; ``mine``: None in the first phase, else all that the
                          phase before wrote under the name f"{shard:05d}". Between the first phase
                          and the last one only shards that it named are gone through
         per "partition"  group(self, name: str, tables: list) -> dict[str, pa.Table]
                          one item for each name the phase before wrote, with its tables in the
                          order of that phase's items
         per "all"        cluster(self, tables: list) -> dict[str, pa.Table]
                          a dict (JSON) under the name "report" goes into the report
         the last phase is per "shard" and returns {"": pa.Table}: the input rows with verdicts.
         Or the only phase is per "slices": slices(self, shards: list[dict]) -> list of items, each
         [(shard, first row, row after the last), ...]; its method gets those rows as one table
         ``sized(self, rows: int)``, if there is one, returns the stage fitted to its input's size
fit      fit(self, out: Path, scratch: Path, seed: int, progress, **inputs) -> dict
         writes its files into ``out``; ``scratch`` survives a crash; ``progress(text)`` reports;
         documents come as pyarrow.dataset.Dataset, tokens and artifacts as the Path of the
         dataset's folder; the dict (JSON) goes into the report

A verdict is two optional columns of the returned table, which the engine takes off again:
``drop_rule`` (string, null = kept) and ``error`` (string, null = fine): rows with a rule lie beside
the kept ones with it, rows with an error go to quarantine with it. Nothing else can remove a row.
"""
