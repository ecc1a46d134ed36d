"""The subcommands of `omniad`, one file each: its options as a dataclass, and ``run``, which calls the library and says where
its output is."""
