"""Gradio's theme for the page: neutral greys, one accent for the primary button.

Colours that carry meaning live in `palette`; spacing and cards in `assets/ui/style.css`.
"""

import gradio as gr

from sage.ui.server.styles import FONT

_INK, _PAPER = "#1F2530", "#F4F5F7"


_VALUES = {
    "body_background_fill": _PAPER,
    "body_background_fill_dark": "#0E1116",
    "body_text_color": _INK,
    "body_text_color_dark": "#E4E7EC",
    "body_text_color_subdued": "#5B6473",
    "body_text_color_subdued_dark": "#9AA3B2",
    "background_fill_primary": "#FFFFFF",
    "background_fill_primary_dark": "#161A21",
    "background_fill_secondary": "#FAFBFC",
    "background_fill_secondary_dark": "#12161C",
    "border_color_primary": "#DFE3E8",
    "border_color_primary_dark": "#2B313B",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_border_width": "0px",
    "block_border_width_dark": "0px",
    "block_padding": "0px",
    "block_shadow": "none",
    "block_shadow_dark": "none",
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "block_title_text_color": "*body_text_color_subdued",
    "block_title_text_color_dark": "*body_text_color_subdued",
    "block_title_text_weight": "400",
    "block_title_text_size": "*text_sm",
    "input_background_fill": "#FFFFFF",
    "input_background_fill_dark": "#10141A",
    "input_border_width": "1px",
    "button_border_width": "1px",
    "input_border_color": "#C9D0D9",
    "input_border_color_dark": "#3A424F",
    "input_border_color_focus": "#5B6473",
    "input_border_color_focus_dark": "#9AA3B2",
    "slider_color": "#4B5565",
    "slider_color_dark": "#9AA3B2",
    "button_primary_background_fill": _INK,
    "button_primary_background_fill_dark": "#E4E7EC",
    "button_primary_background_fill_hover": "#3A4353",
    "button_primary_background_fill_hover_dark": "#FFFFFF",
    "button_primary_text_color": "#FFFFFF",
    "button_primary_text_color_dark": "#12161C",
    "button_secondary_background_fill": "#FFFFFF",
    "button_secondary_background_fill_dark": "#1D222B",
    "button_secondary_background_fill_hover": "#EEF0F3",
    "button_secondary_background_fill_hover_dark": "#2B313B",
    "button_secondary_border_color": "#C9D0D9",
    "button_secondary_border_color_dark": "#3A424F",
    "link_text_color": "#2B5AA8",
    "link_text_color_dark": "#8FB4F0",
}


def page_theme() -> gr.themes.Base:
    """The theme; its font is in the page itself, so nobody is asked for one."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        text_size=gr.themes.sizes.text_md,
        radius_size=gr.themes.sizes.radius_md,
        font=[FONT, "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return theme.set(**_VALUES)
