"""The page's theme: one pigment on neutral paper, a typeface that Gradio ships in full, light and dark."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes import Color, LocalFont, sizes

STYLE = Path(__file__).with_name("style.css")
ICON = Path(__file__).with_name("icon.svg")
HEAD = """
<meta name="description" content="Pictures from public GAN checkpoints: seeds, truncation, style mixing, videos.">
<script>
// A slider that is moved by the keyboard is let go of too: Gradio only asks the pointer.
(() => {
  let soon;
  document.addEventListener('keyup', (event) => {
    const input = event.target;
    if (!(input instanceof HTMLInputElement) || !input.closest('.slider_input_container, .tab-like-container')) return;
    const moved = input.type === 'range' ? /^(Arrow|Page|Home|End)/ : /^Enter$/;
    if (!moved.test(event.key)) return;
    clearTimeout(soon);
    soon = setTimeout(() => input.dispatchEvent(new PointerEvent('pointerup', {bubbles: true})), 250);
  });
})();
</script>
"""

VIRIDIAN = Color(
    name="viridian",
    c50="#eef8f4",
    c100="#d5efe5",
    c200="#acdfcd",
    c300="#79c9b0",
    c400="#45ad91",
    c500="#228f76",
    c600="#13735f",
    c700="#0f5c4d",
    c800="#0e4a3f",
    c900="#0c3d35",
    c950="#06231f",
)
PAPER = Color(
    name="paper",
    c50="#f7f8f6",
    c100="#eef0ec",
    c200="#dfe3dc",
    c300="#c6ccc3",
    c400="#98a197",
    c500="#667067",
    c600="#535c55",
    c700="#414943",
    c800="#292f2b",
    c900="#1b201d",
    c950="#121614",
)


def theme() -> gr.themes.Base:
    """Colours by Gradio's own names; contrast of text is at least 4.5 in both modes (tests/test_page.py)."""
    base = gr.themes.Base(
        primary_hue=VIRIDIAN,
        secondary_hue=VIRIDIAN,
        neutral_hue=PAPER,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        spacing_size=sizes.spacing_md,
        font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"),
        # Gradio's semibold files hold a few letters only, so bold stands in wherever 600 is asked for.
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
    base.name = "ganhub"
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_900",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="600",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_shadow="none",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        border_color_accent="*primary_600",
        border_color_accent_dark="*primary_400",
        color_accent="*primary_600",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="*primary_950",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_200",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_300",
        link_text_color_active="*primary_800",
        link_text_color_active_dark="*primary_200",
        input_background_fill="white",
        input_background_fill_dark="*neutral_950",
        input_background_fill_focus="white",
        input_background_fill_focus_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_border_width="1px",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_shadow_focus="0 0 0 3px *primary_100",
        input_shadow_focus_dark="0 0 0 3px *primary_900",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_300",
        button_primary_background_fill_hover_dark="*primary_200",
        button_primary_text_color="white",
        button_primary_text_color_hover="white",
        button_primary_text_color_dark="*primary_950",
        button_primary_text_color_hover_dark="*primary_950",
        button_primary_border_color="*primary_600",
        button_primary_border_color_dark="*primary_300",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_large_text_weight="600",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_400",
        checkbox_border_color_selected="*primary_600",
        checkbox_border_color_selected_dark="*primary_400",
        checkbox_label_background_fill="white",
        checkbox_label_background_fill_dark="*neutral_900",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_background_fill_selected_dark="*primary_950",
        checkbox_label_text_color_selected="*primary_800",
        checkbox_label_text_color_selected_dark="*primary_200",
        checkbox_label_border_color_selected="*primary_600",
        checkbox_label_border_color_selected_dark="*primary_400",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        loader_color="*primary_600",
        loader_color_dark="*primary_300",
    )
