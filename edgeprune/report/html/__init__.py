"""Pages that hold everything they need: pictures beside their tables, drawn from the records of a run or of files."""
