"""Generation and inpainting with asynchronous diffusion models: recipes, images and masks, films."""

from ._choices import (
    ChoiceError as ChoiceError,
    choose_classes as choose_classes,
    format_seeds as format_seeds,
    labels_of as labels_of,
    order_of_image as order_of_image,
    parse_seeds as parse_seeds,
)
from ._complete import (
    Completed as Completed,
    Dilate as Dilate,
    Window as Window,
    complete as complete,
    tiles as tiles,
)
from ._digest import weights_sha256 as weights_sha256
from ._film import (
    Frame as Frame,
    Recorder as Recorder,
    film_strip as film_strip,
    save_animation as save_animation,
)
from ._fit import Fitted as Fitted, crop_image as crop_image, fit_image as fit_image, paste as paste
from ._generate import Generated as Generated, Step as Step, generate as generate
from ._given import Given as Given
from ._images import ImageError as ImageError, read_image as read_image
from ._in_latents import (
    GivenLatents as GivenLatents,
    decoded as decoded,
    decoded_film as decoded_film,
    given_latents as given_latents,
)
from ._level_colours import level_colours as level_colours, level_picture as level_picture
from ._mask_families import MASK_FAMILIES as MASK_FAMILIES, MaskFamily as MaskFamily, draw_mask as draw_mask
from ._masks import (
    Mask as Mask,
    TokenMask as TokenMask,
    as_pixels as as_pixels,
    dilated as dilated,
    fit_levels as fit_levels,
    outpainted as outpainted,
    read_mask as read_mask,
    token_mask as token_mask,
)
from ._npz import write_npz as write_npz
from ._pictures import (
    hide as hide,
    picture_grid as picture_grid,
    to_image as to_image,
    visible as visible,
)
from ._recipe import Recipe as Recipe, RecipeError as RecipeError
from ._sheets import (
    contact_sheet as contact_sheet,
    shown as shown,
    spread as spread,
    spread_picture as spread_picture,
)
from ._written import written_aside as written_aside
