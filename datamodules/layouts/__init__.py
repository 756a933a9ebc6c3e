"""How images and their labels are laid out: folders, tables, lists, archives and shards."""
