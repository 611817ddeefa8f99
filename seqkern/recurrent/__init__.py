"""LSTM, GRU and Elman network."""
