"""When and where: the DAG and its engine on Ray, datasets on disk, crawl, readers, extract, tokenize,
the command line and the report.
The only package that knows Ray, pydantic, YAML and the file layout of runs and datasets.
Stages follow the contract in stage.py; a stage never talks to the engine.
Imports everything below it; nothing below imports it."""
