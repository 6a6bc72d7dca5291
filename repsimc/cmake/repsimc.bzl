"""Bundles as targets of Bazel.

Copy this file from the folder that `repsimc --cmake-dir` prints into your workspace, and then:

    load("//tools:repsimc.bzl", "repsimc_bundle")

    repsimc_bundle(
        name = "bundle",
        models = ["a.onnx", "b.onnx"],
        calib = ["frames.npz"],           # or {"a": "a.npz", "b": "b.npz"}
        budget = "60%",
    )

The target is the bundle's folder. Bazel keeps what was compiled by the content of all inputs, so a
model's data files are inputs, too: name them in `data`. The command `repsimc` is the one on the path
that actions see (`--action_env=PATH`), or the one named by `tool`.
"""

def _repsimc_bundle_impl(ctx):
    folder = ctx.actions.declare_directory(ctx.label.name)
    words = ctx.actions.args()
    words.add(ctx.attr.tool)
    words.add("compile")
    words.add_all([model.path for model in ctx.files.models])
    for target, names in ctx.attr.calib.items():
        found = target.files.to_list()
        if len(found) != 1:
            fail("calib: name one file or folder, not a group of files")
        for model in names.split(" "):
            words.add("--calib")
            words.add((model + "=" if model else "") + found[0].path)
    for flag, file in (("--config", ctx.file.config), ("--plan", ctx.file.plan)):
        if file:
            words.add(flag)
            words.add(file.path)
    for flag, value in (("--budget", ctx.attr.budget), ("--precision", ctx.attr.precision)):
        if value:
            words.add(flag)
            words.add(value)
    words.add("--output")
    words.add(folder.path)
    words.add_all(ctx.attr.flags)
    given = ctx.files.models + ctx.files.calib + ctx.files.data
    given += [file for file in (ctx.file.config, ctx.file.plan) if file]
    ctx.actions.run_shell(
        outputs = [folder],
        inputs = given,
        arguments = [words],
        command = 'tool="$1" && shift && exec "$tool" "$@"',
        mnemonic = "RepsimcCompile",
        progress_message = "Compiling the bundle " + ctx.label.name,
        use_default_shell_env = True,
    )
    return [DefaultInfo(files = depset([folder]), runfiles = ctx.runfiles([folder]))]

_repsimc_bundle = rule(
    implementation = _repsimc_bundle_impl,
    attrs = {
        "models": attr.label_list(allow_files = True),
        "calib": attr.label_keyed_string_dict(allow_files = True),
        "data": attr.label_list(allow_files = True),
        "config": attr.label(allow_single_file = True),
        "plan": attr.label(allow_single_file = True),
        "budget": attr.string(),
        "precision": attr.string(),
        "flags": attr.string_list(),
        "tool": attr.string(default = "repsimc"),
    },
)

def repsimc_bundle(name, models = [], calib = [], **options):
    """A bundle of the models; `calib` is a list of one set of frames, or a set for each model's name.

    Further options: budget, precision, plan, config, flags, data (further inputs), tool.
    """
    of = {}  # the models of each set of frames; a set is named once, whoever takes it
    if type(calib) == "dict":
        for model, frames in calib.items():
            of[frames] = of[frames] + " " + model if frames in of else model
    else:
        of = {frames: "" for frames in calib}
    _repsimc_bundle(name = name, models = models, calib = of, **options)
