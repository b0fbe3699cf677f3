"""Answers written by hand, as a good writer would give them, of Python's own documentation."""

from __future__ import annotations

import importlib
import inspect

import pyarrow as pa
import pytest

from synth.checks import check
from synth.recipe import builtin_recipes

ANSWERS = [
    (
        "shutil.copytree",
        "wiki",
        """The `shutil.copytree` function copies an entire directory tree and returns the destination
directory. If
errors occur during the copy, they are collected and raised together as a single `Error` exception whose
argument lists the reasons.

The optional `symlinks` flag controls how symbolic links are treated. When it is true, links in the source
tree become links in the new tree; when it is false, the contents of the files they point to are copied
instead. If a linked file does not exist, an error is added to the list unless `ignore_dangling_symlinks`
is set to True. That setting has no effect on platforms without support for `os.symlink`.

An `ignore` callable may be given. It is called once for every directory, with the directory being visited
and its contents as returned by `os.listdir()`, and must return the names that should not be copied. A
custom `copy_function` takes the source and destination paths; by default, `copy2()` is used, but any
function with the same signature, such as `copy()`, works. With `dirs_exist_ok`, existing directories are
accepted: if it is false (the default), a `FileExistsError` is raised when the target already exists.""",
    ),
    (
        "shutil.copytree",
        "faq",
        """Q: What happens if the destination directory already exists?
A: By default `dirs_exist_ok` is False and a `FileExistsError` is raised. If you pass
`dirs_exist_ok=True`, copying continues when it encounters existing directories, and files within the
destination are overwritten by the corresponding files of the source tree.

Q: How can I skip certain files?
A: Pass a callable as `ignore`. It receives the directory being visited and the list of its contents, and
returns the names that should be left out. Since `copytree()` works recursively, the callable runs once
for each directory that is copied.

Q: How do I copy file metadata?
A: Nothing needs to be done, because `copy2()` is the default `copy_function`. You can pass another
function with the same signature instead.""",
    ),
    (
        "subprocess.run",
        "tutorial",
        """This tutorial shows how to run a command from Python and capture its output with
`subprocess.run`. You
need nothing but the standard library.

1. Import the module and call `run` with the command as a list of arguments:

   ```python
   import subprocess
   result = subprocess.run(args, capture_output=True, text=True)
   ```

2. Look at the returned `CompletedProcess` instance. It has the attributes `args`, `returncode`, `stdout`
and `stderr`.

3. To turn failures into exceptions, pass `check=True`. If the exit code is non-zero, a
`CalledProcessError` is raised that carries the return code.

4. If the command may hang, give a `timeout`. When it expires, the child is killed and a `TimeoutExpired`
exception is raised.

You know that it worked when `returncode` is zero.""",
    ),
    (
        "logging.basicConfig",
        "param_table",
        """| Name | Meaning | Default |
| --- | --- | --- |
| `filename` | Creates a FileHandler with the given name instead of a StreamHandler | - |
| `filemode` | Mode in which the file is opened | 'a' |
| `format` | Format string for the handler | - |
| `datefmt` | Date/time format | - |
| `style` | One of '%', '{' or '$' | '%' |
| `level` | Sets the root logger level | - |
| `force` | Removes existing handlers of the root logger before configuring | - |

Q: Which parameter removes the handlers that are already attached to the root logger?
A: `force`: if it is true, they are removed and closed before the configuration is carried out.""",
    ),
    (
        "textwrap.wrap",
        "knowledge_list",
        """- `textwrap.wrap` reformats a single paragraph so that it fits in lines of no more than
'width' columns.
- The function returns a list of wrapped lines.
- Tabs in the text passed to `textwrap.wrap` are expanded with string.expandtabs() by default.
- All other whitespace characters, including newlines, are converted to spaces by `textwrap.wrap`.
- The keyword arguments of `wrap` are those of the TextWrapper class, which customize the wrapping
behaviour.""",
    ),
    (
        "tempfile.mkstemp",
        "explain_cmd",
        """```python
fd, path = tempfile.mkstemp(suffix=suffix, prefix=prefix, dir=None, text=True)
```

- `suffix`: the file name ends with this suffix; no dot is added automatically
- `prefix`: the file name begins with this prefix instead of a default one
- `dir`: the directory in which the file is created, otherwise a default directory is used
- `text`: opens the file in text mode; the default is binary

Use it when you need a temporary file that only the creating user can read and write. The function returns
a pair of a file descriptor and the absolute pathname. Remember that the caller is responsible for
deleting the file when it is no longer needed.""",
    ),
    (
        "zipfile.ZipFile",
        "incident_dialogue",
        """Ana: Our archive job fails with an exception as soon as it opens the output. Any idea?
Ben: Which mode do you pass to ZipFile?
Ana: We pass 'x'.
Ben: That explains it. With 'x' the class insists on creating a new file exclusively, so it does not
tolerate an existing one. Use 'w' to write a new file or 'a' to append.
Ana: Makes sense. And the archive is larger than we hoped.
Ben: Check the `compression` argument. ZIP_STORED means no compression at all; ZIP_DEFLATED requires zlib.
Ana: I see, we never set it. What about very big archives?
Ben: As long as `allowZip64` is true, which is the default, the ZIP64 extensions are used when they are
needed.""",
    ),
    (
        "os.walk",
        "distill",
        """`os.walk` is a directory tree generator. For each directory in the tree rooted at `top`,
including `top`
itself, it yields a 3-tuple of dirpath, dirnames and filenames. The names are plain names without a path;
use `os.path.join(dirpath, name)` for a full path. By default the walk goes top down, and the caller may
modify `dirnames` in place, for instance with `del` or slice assignment, to prune the search or impose an
order. With `topdown=False` changing the list has no effect, because the subdirectories have been visited
already. Errors from `scandir()` are ignored unless `onerror` is given. Symbolic links to subdirectories
are not followed unless `followlinks` is true.""",
    ),
]
# by document and recipe: what is changed in the answer, into what, and the rule that finds it
SPOILED = [
    ("shutil.copytree", "wiki", "`ignore_dangling_symlinks`", "`ignore_broken_symlinks`", "identifiers"),
    ("shutil.copytree", "faq", "`copy2()`", "`copy3()`", "identifiers"),
    ("shutil.copytree", "faq", "files?\nA: Pass", "files?\n\nQ: Pass", "parse"),
    ("subprocess.run", "tutorial", "`check=True`", "`strict=True`", "identifiers"),
    ("subprocess.run", "tutorial", "You know that", "I hope this helps! You know that", "refusal"),
    ("textwrap.wrap", "knowledge_list", "'width' columns", "'width' columns, at most 80", "identifiers"),
    ("zipfile.ZipFile", "incident_dialogue", "ZIP_DEFLATED", "ZIP_ZSTD", "identifiers"),
    ("os.walk", "distill", "`topdown=False`", "`bottomup=True`", "identifiers"),
]


def verdict(name, recipe, answer):
    module, _, thing = name.rpartition(".")
    text = inspect.getdoc(getattr(importlib.import_module(module), thing))
    sources = pa.table({"text": [text], "title": [name]})
    outputs = pa.table({"output": [answer], "finish_reason": ["stop"], "source_row": [0]})
    (row,) = check(builtin_recipes()[recipe], sources, outputs).to_pylist()
    return row["drop_rule"], row["check_detail"]


@pytest.mark.parametrize(("name", "recipe", "answer"), ANSWERS)
def test_good_answers_pass(name, recipe, answer):
    assert verdict(name, recipe, answer) == (None, None)


@pytest.mark.parametrize(("name", "recipe", "old", "new", "rule"), SPOILED)
def test_one_wrong_word_is_found(name, recipe, old, new, rule):
    (answer,) = [text for of, by, text in ANSWERS if (of, by) == (name, recipe)]
    assert answer.count(old) == 1
    found, detail = verdict(name, recipe, answer.replace(old, new))
    assert found == rule, detail
