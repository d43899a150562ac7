"""The commands of `vmambair`: one module a command, each with `HELP`, `add_arguments(parser)` and `run(args)`."""
