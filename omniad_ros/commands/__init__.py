"""The subcommands of `omniad`, one file each: options in, the library's function called, where its output is."""
