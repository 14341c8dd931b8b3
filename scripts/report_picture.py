"""The picture of the report page in the README, by headless Chromium: python scripts/report_picture.py REPORT.html docs/report.png"""

import argparse
import base64
import shutil
import time
from pathlib import Path

from selenium import webdriver


def main() -> None:
    parser = argparse.ArgumentParser(description="A picture of the top of a report page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--at", default="h1", help="CSS selector of what stands at the top")
    parser.add_argument("--scale", type=float, default=0.75)
    options = parser.parse_args()
    settings = webdriver.ChromeOptions()
    settings.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--hide-scrollbars",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ):
        settings.add_argument(flag)
    browser = webdriver.Chrome(options=settings, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": options.width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(options.page.resolve().as_uri())
        while browser.execute_script("return document.body.dataset.ready") != "yes":
            time.sleep(0.1)
        top = browser.execute_script(
            "return document.querySelector(arguments[0]).getBoundingClientRect().top + scrollY - 16", options.at
        )
        clip = {"x": 0, "y": max(top, 0), "width": options.width, "height": options.height, "scale": options.scale}
        shot = browser.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip}
        )
        options.picture.write_bytes(base64.b64decode(shot["data"]))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
