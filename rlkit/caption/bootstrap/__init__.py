"""Parts of self-bootstrapping captions: few corrected ones, many clips without, who judges, and what is trained on."""
