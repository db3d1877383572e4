"""One file per task: a request goes in, progress events come out, the last one is the result. No Gradio here."""
