"""Inside `pal.cli`: the commands, by what they are for, and the options they share."""
