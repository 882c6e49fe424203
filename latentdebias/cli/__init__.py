"""The commands: one file or folder each, which parses arguments and hands them on."""
