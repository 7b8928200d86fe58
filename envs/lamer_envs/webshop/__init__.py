"""WebShop: `env` is the environment, `catalogue` and `goals` make its shops, `search` and `pages` show them."""

from lamer_envs.webshop.env import Webshop as Webshop
