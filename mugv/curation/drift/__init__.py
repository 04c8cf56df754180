"""How far one clip set is from another: rows, every score, tags, words, reasons; what of it is more than chance, and a page for people."""
