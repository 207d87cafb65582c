"""Reports: from a study's rows to statistics, tables, figures and one page. Reads files, never a live run."""
