"""Parts of self-bootstrapping: few pictures, what they look like, who judges samples, and which of them are kept."""
