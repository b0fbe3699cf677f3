"""The crawl: world -> WARC parts. stage.py is what the engine sees, spider.py the Scrapy process.
frontier.py decides the order, urls.py what is followed, guard.py which addresses may be dialled.
The committed parts are the only state: whoever has them can go on where the crawl stopped."""
