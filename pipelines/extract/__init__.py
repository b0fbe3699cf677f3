"""WARC -> documents: charset, main content, title, license, opt-out; a verdict for each record."""
