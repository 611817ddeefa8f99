"""Skip-gram, CBOW and subword bags: the objectives of word vectors."""
